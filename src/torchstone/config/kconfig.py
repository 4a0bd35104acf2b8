"""The tree of knobs in Kconfig's hands: `.config` and defconfig files read and written, the real menu.

Alone in importing kconfiglib, which drops an assignment that it does not like, or that a dependency hides, in
silence or with a warning: here each is a mistake with file:line.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import ConfigError, EnvironmentProblem, UsageError
from torchstone.config.dotconfig import Line, Symbols, scan
from torchstone.config.knobs import PREFIX, Knob, knobs_of, member_symbol
from torchstone.config.layers import DEFAULT
from torchstone.config.menus import kconfig_text
from torchstone.config.mistakes import Mistake
from torchstone.config.resolved import Value, without_effect
from torchstone.config.schema import Section
from torchstone.config.values import BadValue, in_effect, parse, write

HEADER = "# torchstone configuration: edit with `make menuconfig`, show with `torchstone config show`\n"
MINIMAL_HEADER = "# torchstone defconfig: only what differs from the defaults\n"
HIDDEN = object()


@dataclass(frozen=True)
class Reading:
    """What a file asks for: key -> (value, line), and its mistakes."""

    values: dict[str, tuple[Any, int]]
    mistakes: list[Mistake]


class Tree:
    """The Kconfig tree of some sections."""

    def __init__(self, sections: Mapping[str, type[Section]]) -> None:
        self.sections = dict(sections)
        self.knobs = knobs_of(sections)
        self.symbols = Symbols.of(self.knobs)
        self._kconf = _load_tree(kconfig_text(self.knobs, self.sections))

    def read(self, path: Path, label: str, *, honoured: bool = False) -> Reading:
        """Read a `.config` or defconfig.

        With `honoured`, an assignment that takes no effect within this file alone is a mistake too; without,
        that is left to the caller, who may know of more layers.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {label}", why=str(error), next="torchstone config list") from None
        found = scan(text, self.symbols, label)
        mistakes = list(found.mistakes)
        values: dict[str, tuple[Any, int]] = {}
        for line in found.lines:
            self._take(line, label, values, mistakes)
        mistakes += [each for line in found.lines if (each := _denied(line, label, values))]
        if honoured:
            mistakes += self._overridden(values, label)
        if not mistakes:
            mistakes += self._kconfig_mistakes(path, label, values if honoured else {})
        return Reading(values, sorted(mistakes, key=lambda each: each.line or 0))

    def _take(
        self, line: Line, label: str, values: dict[str, tuple[Any, int]], mistakes: list[Mistake]
    ) -> None:
        """Add what `line` asks for to `values`, or what is wrong with it to `mistakes`."""
        knob, where = line.knob, f"{label}:{line.number}"
        try:
            if line.member is None:
                value = parse(knob, line.text)
            elif line.text not in ("y", "n"):
                raise BadValue(f"must be y or n; it is {line.text!r}")
            elif line.text == "n":
                return
            else:
                value = parse(knob, line.member)
        except BadValue as bad:
            symbol = knob.symbol if line.member is None else member_symbol(knob, line.member)
            mistakes.append(
                Mistake(
                    what=f"{symbol} {bad}",
                    where=where,
                    line=line.number,
                    why=bad.hint,
                    next=f"default: {write(knob, knob.default)}",
                )
            )
            return
        before = values.setdefault(knob.key, (value, line.number))
        if before[0] != value:
            here, there = write(knob, value), write(knob, before[0])
            mistakes.append(
                Mistake(
                    what=f"{knob.key} is {here!r} here and {there!r} in line {before[1]}",
                    where=where,
                    line=line.number,
                    next="keep one of the two lines",
                )
            )

    def _overridden(self, values: Mapping[str, tuple[Any, int]], label: str) -> list[Mistake]:
        """Wishes that a dependency takes away. A full .config has a line for each default: those are none."""
        every = {key: Value(knob.default, DEFAULT) for key, knob in self.knobs.items()}
        every |= {key: Value(value, f"{label}:{line}") for key, (value, line) in values.items()}
        return [
            dataclasses.replace(mistake, line=line, next=f"delete the line, or set {_needs(self.knobs[key])}")
            for key, (value, line) in values.items()
            if value != self.knobs[key].default
            for mistake in without_effect([(key, f"{label}:{line}")], self.knobs, every)
        ]

    def _kconfig_mistakes(
        self, path: Path, label: str, expected: Mapping[str, tuple[Any, int]]
    ) -> list[Mistake]:
        """kconfiglib's own warnings, and values that it did not honour although nothing above objected."""
        self._kconf.warnings = []
        self._kconf.load_config(str(path))
        mistakes = [Mistake(what=warning, where=label) for warning in self._kconf.warnings]
        for key, (value, _) in expected.items():
            if self.knobs[key].choices:
                # A file may say CONFIG_X="alternative"; to Kconfig only the alternative's switch means that.
                self._set(self.knobs[key], value)
        for key, (value, number) in expected.items():
            knob = self.knobs[key]
            if value != knob.default and self._result(knob) != value:
                what = f"{knob.symbol} = {write(knob, value)} is not what Kconfig makes of it"
                mistakes.append(Mistake(what=what, where=f"{label}:{number}", line=number))
        return mistakes

    def text(self, values: Mapping[str, Any]) -> str:
        """The full `.config` of a complete set of values."""
        return self._written(
            values, lambda name: self._kconf.write_config(name, header=HEADER, save_old=False)
        )

    def minimal_text(self, values: Mapping[str, Any]) -> str:
        """The defconfig of a complete set of values: only what differs from the defaults."""
        return self._written(values, lambda name: self._kconf.write_min_config(name, header=MINIMAL_HEADER))

    def _written(self, values: Mapping[str, Any], write_file: Any) -> str:
        self._kconf.unset_values()
        self._kconf.warnings = []
        for key, value in values.items():
            if value != self.knobs[key].default:
                self._set(self.knobs[key], value)
        for key, value in values.items():
            if in_effect(key, self.knobs, values):
                result = self._result(self.knobs[key])
                assert result == value, f"{key} = {value!r} is {result!r} in Kconfig: {self._kconf.warnings}"
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "config"
            write_file(str(target))
            return target.read_text(encoding="utf-8")

    def _set(self, knob: Knob, value: Any) -> None:
        text = write(knob, value)
        if knob.choices:
            self._symbol(member_symbol(knob, text)).set_value("y")
        else:
            self._symbol(knob.symbol).set_value(text)

    def _result(self, knob: Knob) -> Any:
        """The value that Kconfig arrived at, or HIDDEN where a dependency takes the symbol away."""
        switches = [member_symbol(knob, text) for text in knob.alternatives] or [knob.symbol]
        if not any(self._symbol(each).visibility for each in switches):
            return HIDDEN
        return parse(knob, self._symbol(knob.symbol).str_value)

    def _symbol(self, symbol: str) -> Any:
        return self._kconf.syms[symbol.removeprefix(PREFIX)]

    def edit_in_menu(self, values: Mapping[str, Any]) -> str | None:
        """Edit values in kconfiglib's menuconfig; the new `.config`, or None if the user saved nothing."""
        try:
            import menuconfig
        except ImportError as error:
            raise EnvironmentProblem(
                "this Python has no curses, which the menu needs",
                why=str(error),
                next="edit .config by hand, then `torchstone config lint`",
            ) from None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ".config"
            before = self.text(values)
            path.write_text(before, encoding="utf-8")
            with _environment(KCONFIG_CONFIG=str(path), KCONFIG_CONFIG_HEADER=HEADER):
                menuconfig.menuconfig(_load_tree(kconfig_text(self.knobs, self.sections)))
            after = path.read_text(encoding="utf-8")
        return None if after == before else after


def _needs(knob: Knob) -> str:
    return " and ".join(map(str, knob.conditions))


def _denied(line: Line, label: str, values: Mapping[str, tuple[Any, int]]) -> Mistake | None:
    """A choice whose result is switched off, with nothing chosen in its place."""
    chosen = values[line.knob.key][0] if line.knob.key in values else line.knob.default
    if line.member is None or line.text != "n" or parse(line.knob, line.member) != chosen:
        return None
    others = " or ".join(
        f"{member_symbol(line.knob, each)}=y" for each in line.knob.alternatives if each != line.member
    )
    return Mistake(
        what=f"{member_symbol(line.knob, line.member)} is switched off, yet nothing else is chosen",
        where=f"{label}:{line.number}",
        line=line.number,
        next=f"delete the line, or set {others}" if others else "delete the line",
    )


def _load_tree(text: str) -> Any:
    import kconfiglib

    with tempfile.TemporaryDirectory() as folder, _environment(CONFIG_=PREFIX, srctree=""):
        source = Path(folder) / "Kconfig"
        source.write_text(text, encoding="utf-8")
        kconf = kconfiglib.Kconfig(str(source), warn=True, warn_to_stderr=False)
    assert not kconf.warnings, kconf.warnings
    kconf.warn_assign_undef = kconf.warn_assign_override = kconf.warn_assign_redun = True
    return kconf


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    """Environment variables that steer kconfiglib, for a block only."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def require_terminal() -> None:
    """The menu paints a screen; in a pipe it cannot."""
    import sys

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "the menu needs a terminal",
            next="torchstone config defconfig NAME --set section.key=value writes .config without one",
        )
