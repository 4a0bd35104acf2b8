"""The layers above the defaults: a file, the environment, `--set`. Each gives assignments and mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torchstone._errors import ConfigError
from torchstone.config.knobs import PREFIX, Knob, key_of, knobs_of, suggest_key, suggest_symbol
from torchstone.config.mistakes import Mistake
from torchstone.config.schema import Section
from torchstone.config.toml_lines import read_toml
from torchstone.config.values import BadValue, check, parse, write

DEFAULT = "default"
BACK_TO_DEFAULT = "@default"


@dataclass(frozen=True)
class Assignment:
    """A layer sets `key` to a legal `value`.

    `explicit` marks a wish. A full `.config` lists every knob, so its lines that say the default are none,
    and neither are the defaults recorded in a run's config.json.
    """

    key: str
    value: Any
    source: str
    explicit: bool = True


def from_file(
    path: Path, label: str, sections: Mapping[str, type[Section]], mistakes: list[Mistake]
) -> list[Assignment]:
    """A `.toml` or `.json` by its suffix; anything else is Kconfig syntax. `mistakes` is added to."""
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {label}", next="torchstone config list")
    if path.suffix == ".toml":
        return list(_from_toml(path, label, knobs_of(sections), mistakes))
    if path.suffix == ".json":
        return list(_from_json(path, label, knobs_of(sections), mistakes))
    from torchstone.config.kconfig import Tree

    tree = Tree(sections)
    reading = tree.read(path, label)
    mistakes += reading.mistakes
    return [
        Assignment(key, value, f"{label}:{line}", explicit=value != tree.knobs[key].default)
        for key, (value, line) in reading.values.items()
    ]


def from_environment(
    environ: Mapping[str, str], knobs: Mapping[str, Knob], mistakes: list[Mistake]
) -> list[Assignment]:
    """CONFIG_SECTION_KEY variables, and the short names that some knobs have (`MAX_ITERS=5`).

    CONFIG_SHELL and the like belong to other programs and are left alone. Two names of one knob that
    contradict each other are a mistake.
    """
    sections = {key.partition(".")[0] for key in knobs}
    found = []
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        key, source = key_of(name), f"environment {name}"
        if key in knobs:
            found += list(_from_text(knobs[key], text, source, mistakes))
        elif key.partition(".")[0] in sections or get_close_matches(key, knobs, cutoff=0.8):
            hint = suggest_symbol(name, knobs)
            mistakes.append(
                Mistake(what=f"there is no knob {name}", where=source, why=hint, next=f"unset {name}")
            )
    said = {each.key: each for each in found}
    for knob in knobs.values():
        for each in _from_short_name(knob, environ, mistakes):
            if said.setdefault(knob.key, each).value != each.value:
                why = f"{said[knob.key].source} says {write(knob, said[knob.key].value)}"
                mistakes.append(
                    Mistake(what=f"two values for {knob.key}", where=each.source, why=why, next="keep one")
                )
            found.append(each)
    return found


def _from_short_name(knob: Knob, environ: Mapping[str, str], mistakes: list[Mistake]) -> Iterator[Assignment]:
    text = environ.get(knob.environment or "", "")
    # An empty variable is none (`make DRY_RUN=`); one with % is GNU time's format, which lies in TIME too.
    if text and "%" not in text:
        yield from _from_text(knob, text, f"environment {knob.environment}", mistakes)


def from_overrides(
    overrides: Sequence[tuple[str, str | None]], knobs: Mapping[str, Knob], mistakes: list[Mistake]
) -> list[Assignment]:
    """`--set` pairs in order; the last one of a key wins."""
    found: dict[str, list[Assignment]] = {}
    for key, text in overrides:
        if key not in knobs:
            mistakes.append(unknown_key(key, "--set", knobs))
        else:
            found[key] = list(
                _from_text(knobs[key], BACK_TO_DEFAULT if text is None else text, "--set", mistakes)
            )
    return [each for group in found.values() for each in group]


def unknown_key(key: str, source: str, knobs: Mapping[str, Knob]) -> Mistake:
    return Mistake(
        what=f"there is no key {key!r}",
        where=source,
        why=suggest_key(key, knobs),
        next="torchstone config show lists all keys",
    )


def _from_text(knob: Knob, text: str, source: str, mistakes: list[Mistake]) -> Iterator[Assignment]:
    if text.strip() == BACK_TO_DEFAULT:
        yield Assignment(knob.key, knob.default, DEFAULT, explicit=False)
        return
    try:
        yield Assignment(knob.key, parse(knob, text), source)
    except BadValue as bad:
        mistakes.append(bad_value(knob, bad, source))


def bad_value(knob: Knob, bad: BadValue, source: str) -> Mistake:
    default = write(knob, knob.default)
    return Mistake(
        what=f"{knob.key} {bad}", where=source, why=bad.hint, next=f"default: {default}" if default else ""
    )


def _from_toml(
    path: Path, label: str, knobs: Mapping[str, Knob], mistakes: list[Mistake]
) -> Iterator[Assignment]:
    try:
        data, lines = read_toml(path, label)
    except ConfigError as error:
        mistakes.append(Mistake(what=error.what, where=error.where, why=error.why))
        return
    for key, value in _flat(data, knobs):
        where = f"{label}:{lines[tuple(key.split('.'))]}"
        yield from _typed(key, value, where, knobs, mistakes)


def _from_json(
    path: Path, label: str, knobs: Mapping[str, Knob], mistakes: list[Mistake]
) -> Iterator[Assignment]:
    try:
        data = json.loads(_read(path, label))
    except json.JSONDecodeError as error:
        mistakes.append(Mistake(what="this is not JSON", where=f"{label}:{error.lineno}", why=error.msg))
        return
    if not isinstance(data, dict):
        mistakes.append(
            Mistake(what="this is no object of sections", where=label, next='{"train": {"epochs": 2}}')
        )
        return
    if str(data.get("schema", "")).startswith("torchstone.config/"):
        for key, each in data["values"].items():
            for found in _typed(key, each["value"], label, knobs, mistakes):
                # A default of then that is the default of now stays a default.
                same = each["source"] == DEFAULT and found.value == knobs[key].default
                yield Assignment(
                    key, found.value, DEFAULT if same else label, explicit=each["source"] != DEFAULT
                )
        return
    for key, value in _flat(data, knobs):
        yield from _typed(key, value, label, knobs, mistakes)


def _typed(
    key: str, value: Any, source: str, knobs: Mapping[str, Knob], mistakes: list[Mistake]
) -> Iterator[Assignment]:
    if key not in knobs:
        mistakes.append(unknown_key(key, source, knobs))
        return
    try:
        yield Assignment(key, check(knobs[key], value), source)
    except BadValue as bad:
        mistakes.append(bad_value(knobs[key], bad, source))


def _flat(data: Mapping[str, Any], knobs: Mapping[str, Knob], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in knobs:
            yield from _flat(value, knobs, f"{key}.")
        else:
            yield key, value


def _read(path: Path, label: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {label}", why=str(error)) from None
