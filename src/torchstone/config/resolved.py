"""A resolved configuration: immutable, typed per section, each value with its source; its hash and JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from torchstone._errors import ConfigError
from torchstone.config.knobs import PREFIX, Knob, key_of, knobs_of, suggest_key, suggest_symbol
from torchstone.config.layers import BACK_TO_DEFAULT, DEFAULT, unknown_key
from torchstone.config.mistakes import Mistake, raise_all
from torchstone.config.schema import Section
from torchstone.config.values import BadValue, check, unmet, write

SCHEMA = "torchstone.config/1"


@dataclass(frozen=True)
class Value:
    """A value and what set it: `default`, `defconfigs/NAME:3`, `.config:12`, `environment CONFIG_X` ..."""

    value: Any
    source: str


@dataclass(frozen=True)
class Difference:
    """One key in which two configurations differ."""

    key: str
    left: Value | None
    right: Value | None
    cosmetic: bool = False
    """The key changes nothing observable."""
    changes_result: bool = True
    """The key changes what is computed; such a key is part of the hash."""


class Resolved:
    """`resolved.train.batch_size`, `resolved["train"]`, `resolved.values()["train.batch_size"].source`.

    Scripts of the kernel's manner may say `resolved.TRAIN_BATCH_SIZE`, with or without `CONFIG_`.
    """

    def __init__(self, built: Mapping[str, Section], values: Mapping[str, Value]) -> None:
        """For `of_values`, which checks and builds; call that."""
        object.__setattr__(self, "_sections", dict(built))
        object.__setattr__(self, "_values", dict(values))

    @classmethod
    def of_values(cls, sections: Mapping[str, type[Section]], values: Mapping[str, Value]) -> Resolved:
        """Build the sections from a full table of checked values; what a section refuses is a ConfigError."""
        mistakes: list[Mistake] = []
        built: dict[str, Section] = {}
        for name, section in sections.items():
            mine = {key: each for key, each in values.items() if key.partition(".")[0] == name}
            try:
                built[name] = section(**_nested({key: each.value for key, each in mine.items()}))
            except ValidationError as refused:
                mistakes += [_refused(name, dict(error), mine) for error in refused.errors(include_url=False)]
        raise_all(mistakes)
        return cls(built, values)

    @classmethod
    def of_sections(cls, instances: Mapping[str, Section], source: str = "python") -> Resolved:
        """From sections made in Python: what a constructor was given has `source`, the rest are defaults."""
        knobs = knobs_of({name: type(each) for name, each in instances.items()})
        values: dict[str, Value] = {}
        wishes: list[tuple[str, str]] = []
        for key, knob in knobs.items():
            value, given = _look_up(instances[key.partition(".")[0]], key.split(".")[1:])
            values[key] = Value(value, source if given else DEFAULT)
            wishes += [(key, source)] if given and value != knob.default else []
        raise_all(without_effect(wishes, knobs, values))
        return cls(instances, values)

    def __getitem__(self, section: str) -> Any:
        if section not in self._sections:
            raise KeyError(f"there is no section {section!r}; there are {', '.join(self._sections)}")
        return self._sections[section]

    def __getattr__(self, section: str) -> Any:
        # Underscored names are not sections; asking for them here would recurse while unpickling.
        if not section.startswith("_") and section in self._sections:
            return self._sections[section]
        if section.isupper() and not section.startswith("_"):
            if key_of(section) in self._values:
                return self._values[key_of(section)].value
            hint = suggest_symbol(PREFIX + section.removeprefix(PREFIX), self._values)
            raise AttributeError(f"there is no symbol {section}" + (f"; {hint}" if hint else ""))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {section!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a resolved configuration does not change; use with_values")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._sections, self._values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resolved) and (self._sections, self._values) == (
            other._sections,
            other._values,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        changed = [f"{key}={each.value!r}" for key, each in self._values.items() if each.source != DEFAULT]
        return f"Resolved({', '.join(changed)})"

    def values(self) -> dict[str, Value]:
        return dict(self._values)

    @property
    def sections(self) -> dict[str, type[Section]]:
        return {name: type(each) for name, each in self._sections.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Key -> source of its value."""
        return {key: each.source for key, each in self._values.items()}

    @property
    def plain(self) -> dict[str, Any]:
        """Key -> value."""
        return {key: each.value for key, each in self._values.items()}

    @property
    def hash(self) -> str:
        """sha256 of the values that change a result and are not what their knobs came with.

        So a knob that is new, at its default, changes no hash; nor do sources and other keys.
        """
        knobs = knobs_of(self.sections)
        counted = {
            key: value
            for key, value in self.plain.items()
            if knobs[key].changes_result and value != knobs[key].first_default
        }
        canonical = json.dumps(counted, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def select(self, names: Iterable[str]) -> Resolved:
        """Only these sections: the part of a configuration that one job obeys."""
        kept = {name: self[name] for name in names}
        return Resolved(
            kept, {key: each for key, each in self._values.items() if key.partition(".")[0] in kept}
        )

    def with_values(self, changes: Mapping[str, Any], source: str | Mapping[str, str] = "python") -> Resolved:
        """A copy with some keys changed, checked like any other layer; `source` for all, or by key.

        The text `@default` gives a key its default back.
        """
        knobs = knobs_of(self.sections)
        places = {key: source if isinstance(source, str) else source[key] for key in changes}
        values, mistakes = self.values(), []
        for key, value in changes.items():
            if key not in knobs:
                mistakes.append(unknown_key(key, places[key], knobs))
                continue
            if isinstance(value, str) and value == BACK_TO_DEFAULT:
                values[key] = Value(knobs[key].default, DEFAULT)
                continue
            try:
                values[key] = Value(check(knobs[key], value), places[key])
            except BadValue as bad:
                mistakes.append(Mistake(what=f"{key} {bad}", where=places[key], why=bad.hint))
        # A change may also take the ground from under an earlier wish.
        asked = {key for key, value in changes.items() if value != BACK_TO_DEFAULT}
        wishes = [key for key in knobs if key in asked or values[key].value != knobs[key].default]
        mistakes += without_effect([(key, values[key].source) for key in wishes], knobs, values)
        raise_all(mistakes)
        return Resolved.of_values(self.sections, values)

    def to_json(self) -> dict[str, Any]:
        """The `config.json` of a run: an object that JSON can hold."""
        values = {
            key: {"value": _jsonable(each.value), "source": each.source} for key, each in self._values.items()
        }
        return {"schema": SCHEMA, "hash": self.hash, "values": values}

    @classmethod
    def from_json(cls, sections: Mapping[str, type[Section]], data: Mapping[str, Any] | str) -> Resolved:
        """What `to_json` gave, as an object or as text; keys of today that it lacks get their defaults."""
        found = json.loads(data) if isinstance(data, str) else data
        if not isinstance(found, Mapping) or found.get("schema") != SCHEMA:
            raise ConfigError("this is no resolved configuration", why=f"it lacks schema {SCHEMA!r}")
        knobs = knobs_of(sections)
        values = {key: Value(knob.default, DEFAULT) for key, knob in knobs.items()}
        mistakes = []
        for key, each in found["values"].items():
            if key not in knobs:
                hint = suggest_key(key, knobs)
                mistakes.append(Mistake(what=f"there is no key {key!r}", where="config.json", why=hint))
                continue
            try:
                values[key] = Value(check(knobs[key], each["value"]), each["source"])
            except BadValue as bad:
                mistakes.append(Mistake(what=f"{key} {bad}", where="config.json", why=bad.hint))
        raise_all(mistakes)
        return cls.of_values(sections, values)


def differences(left: Resolved, right: Resolved, *, cosmetic: bool = True) -> list[Difference]:
    """Every key whose value differs, in the order of the sections; sources make no difference."""
    knobs = knobs_of(left.sections | right.sections)
    found = []
    for key, knob in knobs.items():
        a, b = left.values().get(key), right.values().get(key)
        if (a and a.value) != (b and b.value) or (a is None) != (b is None):
            found.append(Difference(key, a, b, knob.cosmetic, knob.changes_result))
    return [each for each in found if cosmetic or not each.cosmetic]


def without_effect(
    wishes: Iterable[tuple[str, str]], knobs: Mapping[str, Knob], values: Mapping[str, Value]
) -> list[Mistake]:
    """A mistake for each wish (key, source) that takes no effect, because a condition of it does not hold."""
    plain = {key: each.value for key, each in values.items()}
    found = []
    for key, source in wishes:
        missing = unmet(key, knobs, plain)
        if not missing:
            continue
        reasons = [
            f"it needs {each}, but {each.key} is {write(knobs[each.key], plain[each.key])} "
            f"({values[each.key].source})"
            for each in missing
        ]
        found.append(
            Mistake(
                what=f"{key} = {write(knobs[key], plain[key])} has no effect here",
                where=source,
                why="; ".join(reasons),
                next=f"take it out (--set {key}=@default), or set {' and '.join(map(str, missing))}",
            )
        )
    return found


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"model.attention.alpha": 1} without the section's name -> {"attention": {"alpha": 1}}."""
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")[1:]
        inner = out
        for step in path:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return out


def _look_up(section: Section, path: list[str]) -> tuple[Any, bool]:
    """(value, whether it was given to a constructor) of a field, through nested sections."""
    *outer, last = path
    for step in outer:
        section = getattr(section, step)
    return getattr(section, last), last in section.model_fields_set


def _refused(name: str, error: Mapping[str, Any], values: Mapping[str, Value]) -> Mistake:
    """A section's own rule over several fields, told with the places that set them."""
    key = ".".join([name, *map(str, error["loc"])])
    set_by_user = [f"{each} ({value.source})" for each, value in values.items() if value.source != DEFAULT]
    where = values[key].source if key in values else ", ".join(set_by_user) or name
    return Mistake(what=f"{key}: {str(error['msg']).removeprefix('Value error, ')}", where=where)


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
