"""The text of a `.config` or defconfig, line by line, held to the strict Kconfig syntax.

Kconfig tools skip or bend a line that they do not like (`CONFIG_X = 5`, `CONFIG_X=5 # five`, a number in
quotes) and at most warn; here each is a mistake with file:line and the line that would be right. Values are
judged elsewhere: this file knows the syntax, the symbols and their kinds, nothing of ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches

from torchstone._registry import one_slip_away
from torchstone.config.knobs import (
    PREFIX,
    Knob,
    member_symbol,
    suggest_key,
    suggest_symbol,
    symbol_of,
)
from torchstone.config.mistakes import Mistake
from torchstone.config.values import NO, YES

QUOTED = re.compile(r'"((?:[^\\"]|\\.)*)"')
ASSIGNMENT = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.*)")
LOOSE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*)")
UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")


@dataclass(frozen=True)
class Line:
    """One sound assignment: `text` is the value without quotes; a choice's switch names its alternative."""

    number: int
    knob: Knob
    text: str
    member: str | None = None


@dataclass
class Scan:
    """What a file says: sound lines in order, and mistakes."""

    lines: list[Line] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)


@dataclass(frozen=True)
class Symbols:
    """Symbol -> knob, and switch of a choice -> (knob, alternative)."""

    knobs: dict[str, Knob]
    members: dict[str, tuple[Knob, str]]

    @classmethod
    def of(cls, table: dict[str, Knob]) -> Symbols:
        members = {
            member_symbol(each, text): (each, text) for each in table.values() for text in each.alternatives
        }
        return cls({each.symbol: each for each in table.values()}, members)

    def kind(self, symbol: str) -> str | None:
        """How Kconfig holds the symbol: bool, int or string; None if there is no such symbol."""
        if symbol in self.members:
            return "bool"
        return kconfig_kind(self.knobs[symbol]) if symbol in self.knobs else None


def kconfig_kind(knob: Knob) -> str:
    """Kconfig has no real numbers, lists or absent values: those are strings, checked by us."""
    plain = not (knob.optional or knob.many or knob.choices)
    return knob.kind if plain and knob.kind in ("bool", "int") else "string"


def scan(text: str, symbols: Symbols, label: str) -> Scan:
    """Read a whole file; `label` is its name in messages."""
    found = Scan()
    first: dict[str, int] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.removesuffix("\r")
        if not line.strip() or (line.lstrip().startswith("#") and not UNSET.fullmatch(line.strip())):
            continue
        sound, why = _strict(line, symbols)
        where = f"{label}:{number}"
        if sound is None:
            found.mistakes.append(_unreadable(line, symbols, where, number, why))
            continue
        if sound != (line,):
            right = next(each for each in sound if not each.startswith("# ") or UNSET.fullmatch(each))
            found.mistakes.append(
                Mistake(
                    what=f"{line.strip()!r} {why}",
                    where=where,
                    line=number,
                    repair=sound,
                    next=f"write {right}",
                )
            )
            continue
        symbol = _symbol(line)
        if symbol in first:
            found.mistakes.append(
                Mistake(
                    what=f"{symbol} is set a second time; the first is in line {first[symbol]}",
                    where=where,
                    line=number,
                    next="keep one of the two lines",
                )
            )
            continue
        first[symbol] = number
        found.lines.append(_read(line, symbol, symbols, number))
    return found


def repaired(text: str, mistakes: list[Mistake]) -> str:
    """The text with every repair that needs no decision; other lines stay byte for byte."""
    repairs = {each.line: each.repair for each in mistakes if each.repair is not None}
    lines = text.split("\n")
    out: list[str] = []
    for number, line in enumerate(lines, 1):
        out += repairs.get(number) or (line,)
    return "\n".join(out)


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _strict(line: str, symbols: Symbols) -> tuple[tuple[str, ...] | None, str]:
    """(the line as it should be, after a comment line if it held a comment; why it is not). None: no idea."""
    unset = UNSET.fullmatch(line.strip())
    if unset:
        symbol = PREFIX + unset[1]
        if symbols.kind(symbol) == "bool":
            return (line.strip(),), "has blanks around it"
        return None, "only a switch (y or n) can be 'not set'; delete the line to have the default"
    match = LOOSE.fullmatch(line)
    if match is None:
        return None, "it is neither CONFIG_SECTION_KEY=value nor a comment line"
    name, value = match[1], match[2].rstrip()
    symbol = _symbol_meant(name, symbols)
    kind = symbols.kind(symbol)
    if kind is None:
        return None, ""
    reasons = []
    if not line.startswith(symbol):
        reasons.append(f"does not begin with {symbol}")
    if re.match(r"\s*[^=\s]+(\s+=|=\s)", line):
        reasons.append("has a blank around '='")
    elif line.rstrip("\r") != line.rstrip():
        reasons.append("has a trailing blank")
    value, comment = _split_comment(value)
    if comment:
        reasons.append("has a comment behind the value")
    if value.startswith('"') and not QUOTED.fullmatch(value):
        return None, "its string is not closed, or something follows it"
    right = _right_value(value, kind)
    if right != value:
        reasons.append(
            {"string": "needs double quotes", "int": "must not be quoted"}.get(kind, "must be y or n")
        )
    above = (f"# {comment}",) if comment else ()
    return (*above, f"{symbol}={right}"), " and ".join(reasons)


def _symbol_meant(name: str, symbols: Symbols) -> str:
    """The symbol behind `CONFIG_X`, `X`, lower case or `section.key`."""
    upper = name.upper()
    candidates = [name, upper, PREFIX + upper, symbol_of(name) if "." in name else ""]
    return next((each for each in candidates if symbols.kind(each)), name)


def _split_comment(value: str) -> tuple[str, str]:
    quoted = QUOTED.match(value)
    if quoted:
        rest = value[quoted.end() :].strip()
        return (quoted[0], rest.lstrip("# ")) if rest.startswith("#") else (value, "")
    match = re.fullmatch(r"(.*?)\s+#\s*(.*)", value)
    return (match[1], match[2]) if match else (value, "")


def _right_value(value: str, kind: str) -> str:
    if kind == "string":
        if QUOTED.fullmatch(value):
            return value
        if len(value) > 1 and value[0] == value[-1] == "'":
            value = value[1:-1]
        return quote(value)
    bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    if kind == "bool":
        bare = "y" if bare.lower() in YES else "n" if bare.lower() in NO else bare
    return bare


def _unreadable(line: str, symbols: Symbols, where: str, number: int, why: str) -> Mistake:
    match = LOOSE.fullmatch(line)
    if why or match is None:
        return Mistake(
            what=f"{line.strip()!r} cannot be read", where=where, line=number, why=why, next=DELETE
        )
    name = match[1]
    return Mistake(
        what=f"there is no symbol {name}",
        where=where,
        line=number,
        why=_suggest_symbol(name, symbols),
        next="write the symbol that is meant, or delete the line; `torchstone config show` lists all",
    )


DELETE = "write CONFIG_SECTION_KEY=value, or delete the line"


def _suggest_symbol(name: str, symbols: Symbols) -> str:
    keys = [each.key for each in symbols.knobs.values()]
    if "." in name:
        return suggest_key(name, keys)
    full = name.upper() if name.upper().startswith(PREFIX) else PREFIX + name.upper()
    # The common prefix would make all symbols alike.
    switches = {each.removeprefix(PREFIX): each for each in symbols.members}
    settings = [symbol_of(key).removeprefix(PREFIX) for key in keys]
    bare, known = full.removeprefix(PREFIX), [*settings, *switches]
    near = one_slip_away(bare, known) or get_close_matches(bare, known, n=1, cutoff=0.85)
    if near and near[0] not in settings:
        return f"did you mean {switches[near[0]]!r}?"
    return suggest_symbol(full, keys)


def _symbol(line: str) -> str:
    unset = UNSET.fullmatch(line)
    return PREFIX + unset[1] if unset else line.partition("=")[0]


def _read(line: str, symbol: str, symbols: Symbols, number: int) -> Line:
    text = "n" if UNSET.fullmatch(line) else line.partition("=")[2]
    if symbol in symbols.members:
        knob, member = symbols.members[symbol]
        return Line(number, knob, text, member)
    knob = symbols.knobs[symbol]
    return Line(number, knob, _unquote(text) if kconfig_kind(knob) == "string" else text)
