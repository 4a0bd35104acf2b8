"""Every knob of the sections as one flat table: key, Kconfig symbol, kind, range, condition.

Read off the pydantic fields, so that resolver, Kconfig tree, lint and docs see the same description.
A key is `section.name`; a section inside a section lengthens it (`model.attention.alpha`). Values are
not handled here (see `values.py`).
"""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from torchstone._registry import one_slip_away, suggest
from torchstone.config.schema import Section

Kind = Literal["bool", "int", "float", "str"]
PREFIX = "CONFIG_"


@dataclass(frozen=True)
class Condition:
    """`key` must (or, `negated`, must not) have one of `values`, in the form a user writes them."""

    key: str
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.key}{'!=' if self.negated else '='}{'|'.join(self.values)}"


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One knob. `many` makes it a tuple of `kind`; `optional` allows None, spelled `none` in text."""

    key: str
    kind: Kind
    many: bool
    optional: bool
    default: Any
    first_default: Any
    """What the hash takes for granted: the default that the knob came with."""
    help: str
    unit: str | None
    choices: tuple[str, ...]
    conditions: tuple[Condition, ...]
    source: str | None
    environment: str | None
    changes_result: bool
    cosmetic: bool
    gt: float | None
    ge: float | None
    lt: float | None
    le: float | None

    @property
    def symbol(self) -> str:
        return symbol_of(self.key)

    @property
    def alternatives(self) -> tuple[str, ...]:
        """The texts of a choice, `none` among them where None is legal; empty if this is no choice."""
        return (("none", *self.choices) if self.optional else self.choices) if self.choices else ()


def knobs_of(sections: Mapping[str, type[Section]]) -> dict[str, Knob]:
    """All knobs by key, in order. A contradiction in them is our own mistake: ValueError."""
    return dict(_knobs_of(tuple(sections.items())))


@functools.lru_cache(maxsize=64)
def _knobs_of(sections: tuple[tuple[str, type[Section]], ...]) -> dict[str, Knob]:
    """Read once: a study asks for every cell."""
    table: dict[str, Knob] = {}
    for name, section in sections:
        _collect(name, section, table)
    symbols: dict[str, str] = {}
    short = [each.environment for each in table.values() if each.environment]
    if len(short) != len(set(short)):
        raise ValueError(f"two knobs have the same short environment name: {sorted(short)}")
    for each in table.values():
        for symbol in (each.symbol, *(member_symbol(each, text) for text in each.alternatives)):
            if symbols.setdefault(symbol, each.key) != each.key or key_of(each.symbol) != each.key:
                raise ValueError(f"{each.key} and {symbols[symbol]} cannot share the symbol {symbol}")
        for condition in each.conditions:
            if condition.key not in table or each.key in _needed(condition.key, table, set()):
                raise ValueError(f"{each.key} depends on {condition.key}, which is absent or depends on it")
    return table


def _needed(key: str, table: Mapping[str, Knob], seen: set[str]) -> set[str]:
    """`key` and every key that it depends on, at any distance."""
    if key in table and key not in seen:
        seen.add(key)
        for condition in table[key].conditions:
            _needed(condition.key, table, seen)
    return seen


def _collect(prefix: str, section: type[Section], table: dict[str, Knob]) -> None:
    for name, field in section.model_fields.items():
        key = f"{prefix}.{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            _collect(key, field.annotation, table)
            continue
        kind, many, optional, of_items = _read_type(key, field.annotation)
        extra: Any = field.json_schema_extra or {}
        bounds = {
            side: getattr(each, side)
            for each in (*field.metadata, *of_items)
            for side in ("gt", "ge", "lt", "le")
            if getattr(each, side, None) is not None
        }
        table[key] = Knob(
            key=key,
            kind=kind,
            many=many,
            optional=optional,
            default=(default := field.get_default(call_default_factory=True)),
            first_default=extra.get("first_default", [default])[0],
            help=field.description or "",
            unit=extra.get("unit"),
            choices=tuple(extra.get("choices", ())),
            conditions=_read_conditions(extra.get("depends_on")),
            source=extra.get("source"),
            environment=extra.get("environment"),
            changes_result=not extra.get("same_result", False),
            cosmetic=bool(extra.get("cosmetic", False)),
            gt=bounds.get("gt"),
            ge=bounds.get("ge"),
            lt=bounds.get("lt"),
            le=bounds.get("le"),
        )


def _read_type(key: str, annotation: Any) -> tuple[Kind, bool, bool, list[Any]]:
    """(kind, many, optional, limits of the items) of an annotation such as `int | None` or `tuple[str, ...]`.

    The range of a list's items is written `tuple[Annotated[int, Field(ge=1)], ...]`.
    """
    kinds: dict[Any, Kind] = {bool: "bool", int: "int", float: "float", str: "str"}
    members = [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = list(typing.get_args(annotation))
    optional = type(None) in members
    members = [each for each in members if each is not type(None)]
    if len(members) == 1:
        (member,) = members
        if member in kinds:
            return kinds[member], False, optional, []
        if typing.get_origin(member) is tuple and typing.get_args(member)[1:] == (...,):
            item, limits = typing.get_args(member)[0], []
            if typing.get_origin(item) is Annotated:
                item, *fields = typing.get_args(item)
                limits = [limit for each in fields for limit in each.metadata]
            if item in kinds:
                return kinds[item], True, optional, limits
    raise ValueError(f"{key}: a knob is bool, int, float, str, a tuple of one of them, or that | None")


def _read_conditions(text: str | None) -> tuple[Condition, ...]:
    found = []
    for part in text.split("&&") if text else ():
        match = re.fullmatch(r"\s*([a-z][a-z0-9_.]*)\s*(!?=)\s*(\S+)\s*", part)
        if match is None:
            raise ValueError(f"depends_on={text!r}: write section.key=value, or != for the opposite")
        found.append(Condition(match[1], tuple(match[3].split("|")), negated=match[2] == "!="))
    return tuple(found)


def symbol_of(key: str) -> str:
    """train.batch_size -> CONFIG_TRAIN_BATCH_SIZE; a deeper level is set off by two underscores."""
    section, _, name = key.partition(".")
    return f"{PREFIX}{section}_{name.replace('.', '__')}".upper()


def key_of(symbol: str) -> str:
    """CONFIG_TRAIN_BATCH_SIZE -> train.batch_size: the inverse of `symbol_of`."""
    section, _, name = symbol.removeprefix(PREFIX).lower().partition("_")
    return f"{section}.{name.replace('__', '.')}"


def member_symbol(knob: Knob, alternative: str) -> str:
    """CONFIG_OPTIM_SCHEDULE_COSINE: the switch of one alternative of a choice."""
    return f"{knob.symbol}_{re.sub(r'[^A-Za-z0-9]+', '_', alternative).upper()}"


def suggest_key(wrong: str, known: Iterable[str]) -> str:
    """`did you mean ...?` for a key written wrongly, without its section, in another one, or as a symbol."""
    keys = list(known)
    wrong = key_of(wrong) if wrong.startswith(PREFIX) else wrong.lower().replace("-", "_")
    if slip := one_slip_away(wrong, keys):
        return f"did you mean {' or '.join(map(repr, slip[:3]))}?"
    name = wrong.rpartition(".")[2]
    same_name = [key for key in keys if key.rpartition(".")[2] == name]
    if same_name:
        nearest_first = get_close_matches(wrong, same_name, n=3, cutoff=0.0)
        return f"did you mean {' or '.join(map(repr, nearest_first))}?"
    if "." in wrong:
        return suggest(wrong, keys)
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys)}
    near = get_close_matches(name, by_name, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(repr(by_name[each]) for each in near)}?" if near else ""


def suggest_symbol(wrong: str, known: Iterable[str]) -> str:
    """The same for a misspelt CONFIG_ name, answered in symbols."""
    keys = {symbol_of(key): key for key in known}
    return re.sub(
        r"'([a-z0-9_.]+)'", lambda found: repr(symbol_of(found[1])), suggest_key(key_of(wrong), keys.values())
    )
