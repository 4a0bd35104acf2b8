"""One value of a knob: read from text, checked, written back.

`parse(knob, write(knob, value)) == value` for every legal value: `.config`, the environment and `--set`
all speak this text. None is `none`, booleans are `y` and `n`, tuples are comma separated.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from torchstone._registry import suggest
from torchstone.config.knobs import Condition, Knob

YES = ("y", "yes", "true", "1")
NO = ("n", "no", "false", "0")
LARGEST = 2**63 - 1  # what Kconfig tools, TOML and the store can all hold


class BadValue(ValueError):
    """A value that its knob refuses; `hint` is the way out where one is known."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


def parse(knob: Knob, text: str) -> Any:
    """The typed, checked value of `text`; BadValue says what would be legal."""
    if knob.optional and text.strip().lower() == "none":
        return None
    if knob.many:
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        return check(knob, tuple(_parse_one(knob, part) for part in parts))
    return check(knob, _parse_one(knob, text))


def check(knob: Knob, value: Any) -> Any:
    """A typed value from Python, TOML or JSON: the same value in its one canonical form, or BadValue."""
    if value is None or (value == "none" and isinstance(value, str) and knob.optional):
        if knob.optional:
            return None
        raise _refusal(knob, "none")
    if knob.many:
        if not isinstance(value, list | tuple):
            raise _refusal(knob, value)
        return tuple(_check_one(knob, each) for each in value)
    return _check_one(knob, value)


def write(knob: Knob, value: Any) -> str:
    """The text of a legal value."""
    if value is None:
        return "none"
    if knob.many:
        return ",".join(_write_one(each) for each in value)
    return _write_one(value)


def holds(condition: Condition, knob: Knob, value: Any) -> bool:
    """Whether `value` of `knob` satisfies the condition on it."""
    return (write(knob, value) in condition.values) is not condition.negated


def in_effect(key: str, knobs: Mapping[str, Knob], values: Mapping[str, Any]) -> bool:
    """Whether every condition of `key`, and of the keys that those name, holds."""
    return not unmet(key, knobs, values)


def unmet(key: str, knobs: Mapping[str, Knob], values: Mapping[str, Any]) -> list[Condition]:
    """The conditions that keep `key` without effect."""
    missing = []
    for condition in knobs[key].conditions:
        if not holds(condition, knobs[condition.key], values[condition.key]):
            missing.append(condition)
        else:
            missing += unmet(condition.key, knobs, values)
    return missing


def legal(knob: Knob) -> str:
    """What the knob takes, for messages and docs: `a whole number >= 1 (examples), or none`."""
    if knob.choices:
        return "one of " + ", ".join(knob.alternatives)
    noun = {"bool": "y or n", "int": "a whole number", "float": "a number", "str": "text"}[knob.kind]
    if knob.many:
        noun = {"int": "whole numbers", "float": "numbers", "str": "words"}.get(knob.kind, noun)
        noun += " separated by commas"
    signs = {">": knob.gt, ">=": knob.ge, "<": knob.lt, "<=": knob.le}
    bounds = [f"{sign} {bound:.15g}" for sign, bound in signs.items() if bound is not None]
    if bounds:
        noun += " " + " and ".join(bounds)
    if knob.unit:
        noun += f" ({knob.unit})"
    return noun + (", or none" if knob.optional else "")


def _parse_one(knob: Knob, text: str) -> Any:
    if knob.kind == "str":
        return text
    text = text.strip()
    if knob.kind == "bool":
        if text.lower() in (*YES, *NO):
            return text.lower() in YES
        raise _refusal(knob, text, suggest(text.lower(), [*YES, *NO]))
    if knob.kind == "int":
        if re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)*", text):
            return int(text)
        raise _refusal(knob, text, _whole_number_hint(text))
    try:
        return float(text)
    except ValueError:
        raise _refusal(knob, text) from None


def _whole_number_hint(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"write {int(number)}" if math.isfinite(number) and number.is_integer() else ""


def _check_one(knob: Knob, value: Any) -> bool | int | float | str:
    if knob.kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if knob.kind == "bool" and isinstance(value, str) and value in ("y", "n"):
        value = value == "y"
    kinds: dict[str, type[Any]] = {"bool": bool, "int": int, "float": float, "str": str}
    # bool is an int to Python, not to a reader of the configuration.
    if not isinstance(value, kinds[knob.kind]) or (isinstance(value, bool) and knob.kind != "bool"):
        raise _refusal(knob, value)
    if knob.kind == "str":
        return _check_text(knob, value)
    if knob.kind == "bool":
        return value
    if not math.isfinite(value) or (abs(value) > LARGEST and knob.kind == "int"):
        raise _refusal(knob, value)
    above = (knob.gt is None or value > knob.gt) and (knob.ge is None or value >= knob.ge)
    below = (knob.lt is None or value < knob.lt) and (knob.le is None or value <= knob.le)
    if not (above and below):
        raise _refusal(knob, value)
    return value + 0.0 if knob.kind == "float" else value  # -0.0 and 0.0 are one value


def _check_text(knob: Knob, value: str) -> str:
    if knob.choices and value not in knob.choices:
        raise _refusal(knob, value, suggest(value.strip().lower(), knob.alternatives))
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in value):
        raise BadValue(f"{value!r} must be one line without control characters")
    if knob.many and ("," in value or value != value.strip() or not value):
        raise BadValue(f"{value!r} cannot stand in a list separated by commas")
    return value


def _write_one(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    return repr(value) if isinstance(value, float) else str(value)


def _refusal(knob: Knob, value: Any, hint: str = "") -> BadValue:
    return BadValue(f"must be {legal(knob)}; it is {value!r}", hint)
