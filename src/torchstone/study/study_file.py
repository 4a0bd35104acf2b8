"""Read a study file: strict, all mistakes at once, each with file:line and what was probably meant.

    study = read_study("ratio")               # a name: ./defconfigs/studies, then those that are shipped
    study = read_study("mine/widths.toml")    # a path

Only the form is judged here; whether the knobs exist and agree is found when arms are resolved (`plan.py`).
A study that `extends` another has its steps, at another base, with sizes of its own (`extended.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torchstone._errors import ConfigError, UsageError
from torchstone._registry import suggest
from torchstone.config.defconfigs import folders
from torchstone.config.mistakes import Mistake, raise_all
from torchstone.config.toml_lines import Lines, TomlPath, read_toml
from torchstone.study.extended import extended
from torchstone.study.prove.claims import mistaken_claims
from torchstone.study.records import Adjustment, Axis, AxisValue, Rule, Settings, Step, Study

FOLDER = "studies"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
"""Ids become names of folders and parts of longer ids that are joined by `_`."""

_STUDY_KEYS = ("name", "kind", "extends", "base", "describe", "seeds", "metric", "set")
_STEP_KEYS = ("id", "parent", "name", "describe", "set", "claims")
_CHANGE_KEYS = ("id", "set", "claims")
"""What an extending study may say of a step."""
_AXIS_KEYS = ("name", "key", "values", "claims")
_RULE_KEYS = ("drop", "reason")
_ADJUST_KEYS = ("arms", "set", "reason")
_TABLES = {"ablation": ("study", "step"), "matrix": ("study", "axis", "rule", "adjust")}


def find_study(name: str) -> tuple[Path, str]:
    """(path, label for messages) of a study given by name or by path."""
    for shipped, path in available():
        if shipped == name:
            return path, f"defconfigs/{FOLDER}/{path.name}"
    if Path(name).suffix == ".toml" or Path(name).is_file():
        if not Path(name).is_file():
            raise UsageError(f"there is no study file {name}", next="torchstone study list")
        return Path(name), name
    known = [each for each, _ in available()]
    raise UsageError(
        f"there is no study {name!r}",
        why=suggest(name, known),
        next=f"choose one of: {', '.join(known)}; or give the path of a .toml file"
        if known
        else "give a path",
    )


def available() -> Iterator[tuple[str, Path]]:
    """(name, path) of each study of this folder and of torchstone; the first of a name hides the others."""
    seen: set[str] = set()
    for folder in folders():
        for path in sorted((folder / FOLDER).glob("*.toml")):
            if path.stem not in seen:
                seen.add(path.stem)
                yield path.stem, path


def read_study(name: str | Path, *, _extenders: tuple[Path, ...] = ()) -> Study:
    """Read the study of that name or path, or raise one ConfigError with every mistake in it."""
    path, label = find_study(str(name))
    data, lines = read_toml(path, label)
    reader = _Reader(path, label, data, lines, (*_extenders, path.resolve()))
    study = reader.study()
    raise_all(reader.mistakes)
    return study


class _Reader:
    """Collects mistakes while it reads, so that a user sees all of them."""

    def __init__(
        self, path: Path, label: str, data: dict[str, Any], lines: Lines, extenders: tuple[Path, ...]
    ) -> None:
        self.path, self.label, self.data, self.lines = path, label, data, lines
        self.extenders = extenders
        self.mistakes: list[Mistake] = []

    # --- the parts of a file --------------------------------------------------------------------

    def study(self) -> Study:
        head: TomlPath = ("study",)
        table = self._table(self.data, head)
        if not table:
            raise ConfigError(
                "there is no [study] table", where=self.label, next="[study] with name and kind"
            )
        kind = self._text(table, (*head, "kind"), required=True)
        if kind not in _TABLES:
            self._wrong(
                (*head, "kind"), f"kind = {kind!r} is neither ablation nor matrix", suggest(kind, _TABLES)
            )
            raise_all(self.mistakes)
        self._known(self.data, (), _TABLES[kind], of_kind=kind)
        self._known(table, head, _STUDY_KEYS)
        common = self._settings(table, (*head, "set"))
        other = self._extended(table, (*head, "extends"), kind)
        places = self._places(common, (*head, "set"))
        if other is not None:
            common, places = {**other.set, **common}, {**other.places, **places}
        return Study(
            name=self._id(table, (*head, "name")),
            kind="matrix" if kind == "matrix" else "ablation",
            path=self.path,
            label=self.label,
            base=self._text(table, (*head, "base")) or None,
            describe=self._text(table, (*head, "describe")),
            seeds=self._seeds(table, (*head, "seeds")),
            metric=self._text(table, (*head, "metric")) or "val/loss",
            set=common,
            places=places,
            steps=self._steps(other) if kind == "ablation" else (),
            axes=self._axes() if kind == "matrix" else (),
            rules=tuple(self._rules()) if kind == "matrix" else (),
            adjustments=tuple(self._adjustments()) if kind == "matrix" else (),
        )

    def _extended(self, table: dict[str, Any], place: TomlPath, kind: str) -> Study | None:
        """The study that this one extends; a path is looked for beside this file, too."""
        name = self._text(table, place)
        if not name:
            return None
        beside = self.path.parent / name
        path = (beside if beside.is_file() else find_study(name)[0]).resolve()
        if path in self.extenders:
            raise ConfigError(
                f"extends = {name!r} leads back to {path.name}",
                where=self._where(place),
                next="let one of them have steps of its own",
            )
        other = read_study(path, _extenders=self.extenders)
        if kind != "ablation" or other.kind != "ablation":
            self._wrong(
                place, f"extends = {name!r}: a matrix has no steps", "an ablation extends an ablation"
            )
            return None
        return other

    def _steps(self, other: Study | None) -> tuple[Step, ...]:
        """The steps of the file, or those of the study that it extends with what the file says of them."""
        if other is None:
            return tuple(self._own_steps())
        changes: list[Step] = []
        of = {each.id: each for each in other.steps}
        for place, table in self._tables("step", _CHANGE_KEYS, needed=False):
            id_ = self._id(table, (*place, "id"))
            self._only_once(id_, changes, place)
            if id_ not in of:
                self._wrong((*place, "id"), f"{other.name} has no step {id_!r}", suggest(id_, of))
            else:
                changes.append(self._step(table, place, id_, of[id_].parent))
        return extended(other.steps, changes)

    def _own_steps(self) -> list[Step]:
        steps: list[Step] = []
        for place, table in self._tables("step", _STEP_KEYS):
            id_ = self._id(table, (*place, "id"))
            parent = self._text(table, (*place, "parent")) or None
            known = [each.id for each in steps]
            self._only_once(id_, steps, place)
            if parent is not None and parent not in known:
                later = any(isinstance(each, dict) and each.get("id") == parent for each in self.data["step"])
                why = "a parent stands before its children" if later else suggest(parent, known)
                self._wrong(
                    (*place, "parent"), f"step {id_!r} has the parent {parent!r}, which is not above", why
                )
            steps.append(self._step(table, place, id_, parent))
        return steps

    def _only_once(self, id_: str, steps: list[Step], place: TomlPath) -> None:
        if id_ in [each.id for each in steps]:
            self._wrong((*place, "id"), f"step {id_!r} is there twice")

    def _step(self, table: dict[str, Any], place: TomlPath, id_: str, parent: str | None) -> Step:
        settings = self._settings(table, (*place, "set"))
        return Step(
            id=id_,
            parent=parent,
            name=self._text(table, (*place, "name")),
            describe=self._text(table, (*place, "describe")),
            set=settings,
            places=self._places(settings, (*place, "set")),
            claims=self._claims(table, (*place, "claims"), has_parent=parent is not None),
            where=self._where(place),
        )

    def _axes(self) -> tuple[Axis, ...]:
        axes: list[Axis] = []
        for place, table in self._tables("axis", _AXIS_KEYS):
            name = self._id(table, (*place, "name"))
            if name in [each.name for each in axes]:
                self._wrong((*place, "name"), f"axis {name!r} is there twice")
            claims = self._table(table, (*place, "claims"))
            values = tuple(self._axis_values(table, place, claims))
            names = [each.name for each in values]
            for each in claims:
                if each not in names:
                    where: TomlPath = (*place, "claims", each)
                    self._wrong(where, f"axis {name!r} has no value {each!r}", suggest(each, names))
                elif each == names[0]:
                    where = (*place, "claims", each)
                    self._wrong(where, f"{each!r} is the first value", "the others claim against it")
            for double in {each for each in names if names.count(each) > 1}:
                self._wrong((*place, "values"), f"axis {name!r} has the value {double!r} twice")
            axes.append(Axis(name=name, values=values, where=self._where(place)))
        return tuple(axes)

    def _axis_values(
        self, table: dict[str, Any], place: TomlPath, claims: dict[str, Any]
    ) -> Iterator[AxisValue]:
        at: TomlPath = (*place, "values")
        given = table.get("values")
        if not isinstance(given, list | dict) or not given:
            self._wrong(at, "an axis needs values", "", 'values = ["a", "b"] with a key, or a table of names')
            return
        if isinstance(given, list) and not isinstance(table.get("key"), str):
            self._wrong(at, "a list of values needs the key that they are for", "", 'key = "optim.name"')
            return
        if isinstance(given, dict) and "key" in table:
            self._wrong((*place, "key"), "key belongs to a list of values; named values set their own keys")
        pairs = (
            given.items()
            if isinstance(given, dict)
            else ((_name_of(each), {table["key"]: each}) for each in given)
        )
        for name, settings in pairs:
            if not ID.fullmatch(name):
                why = "letters, digits and . + - only"
                self._wrong(
                    (*at, name), f"{name!r} cannot be part of an id", why, "name the value: [axis.values]"
                )
            at_value: TomlPath = (*at, name)
            flat = self._settings({"x": settings}, (*at_value, "x")) if isinstance(settings, dict) else {}
            if not isinstance(settings, dict):
                self._wrong(
                    at_value,
                    f"{name} = {settings!r} is no table of knobs",
                    "",
                    f'{name} = {{ "optim.name" = ... }}',
                )
            own = self._claims(claims, (*place, "claims", name), has_parent=True) if name in claims else {}
            yield AxisValue(name=name, set=flat, places=self._places(flat, at_value), claims=own)

    def _rules(self) -> Iterator[Rule]:
        for place, table in self._tables("rule", _RULE_KEYS, needed=False):
            drop = self._combinations(table, (*place, "drop"))
            if not drop:
                self._wrong(place, "a rule drops something", "", 'drop = { optimizer = ["adamw"] }')
            reason = self._text(table, (*place, "reason"), required=True)
            yield Rule(drop=drop, reason=reason, where=self._where(place))

    def _adjustments(self) -> Iterator[Adjustment]:
        for place, table in self._tables("adjust", _ADJUST_KEYS, needed=False):
            arms = self._combinations(table, (*place, "arms"))
            settings = self._settings(table, (*place, "set"))
            if not arms:
                self._wrong(place, "an adjustment is for some arms", "", 'arms = { optimizer = ["adamw"] }')
            if not settings:
                self._wrong(
                    place, "an adjustment sets something", "", 'set = { "optim.learning_rate" = 0.01 }'
                )
            reason = self._text(table, (*place, "reason"), required=True)
            yield Adjustment(
                arms=arms,
                set=settings,
                reason=reason,
                places=self._places(settings, (*place, "set")),
                where=self._where(place),
            )

    def _combinations(self, table: Mapping[str, Any], place: TomlPath) -> dict[str, tuple[str, ...]]:
        """Axis -> names of its values, as rules and adjustments name combinations."""
        axes: dict[str, list[str]] = {}
        for each in self.data.get("axis", ()):
            if isinstance(each, dict) and isinstance(each.get("values"), list | dict):
                axes[str(each.get("name"))] = [_name_of(value) for value in each["values"]]
        found = {}
        for axis, names in self._table(table, place).items():
            at: TomlPath = (*place, axis)
            wanted = [_name_of(each) for each in (names if isinstance(names, list) else [names])]
            if axis not in axes:
                self._wrong(at, f"there is no axis {axis!r}", suggest(axis, axes))
            for each in wanted:
                if axis in axes and each not in axes[axis]:
                    self._wrong(at, f"axis {axis!r} has no value {each!r}", suggest(each, axes[axis]))
            found[axis] = tuple(wanted)
        return found

    # --- single values --------------------------------------------------------------------------

    def _tables(
        self, name: str, keys: tuple[str, ...], *, needed: bool = True
    ) -> Iterator[tuple[TomlPath, dict[str, Any]]]:
        found = self.data.get(name, [])
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            self._wrong((name,), f"[{name}] is written once for each {name}", "", f"[[{name}]]")
            return
        if needed and not found:
            self._wrong(("study",), f"there is no [[{name}]]", "the study has nothing to do")
        for number, table in enumerate(found):
            self._known(table, (name, number), keys)
            yield (name, number), table

    def _known(
        self, table: Mapping[str, Any], place: TomlPath, known: tuple[str, ...], of_kind: str = ""
    ) -> None:
        for key in table:
            if key in known:
                continue
            if of_kind and any(key in each for each in _TABLES.values()):
                self._wrong((*place, key), f"[[{key}]] does not belong in a study of kind {of_kind}",
                            "a study is a matrix or an ablation, not both")  # fmt: skip
            else:
                self._wrong(
                    (*place, key),
                    f"there is no key {key!r} here",
                    suggest(key, known),
                    f"keys: {', '.join(known)}",
                )

    def _table(self, table: Mapping[str, Any], place: TomlPath) -> dict[str, Any]:
        value = table.get(str(place[-1]), {})
        if isinstance(value, dict):
            return value
        self._wrong(place, f"{place[-1]} = {value!r} is no table", "", f"{place[-1]} = {{ ... }}")
        return {}

    def _text(self, table: Mapping[str, Any], place: TomlPath, *, required: bool = False) -> str:
        value = table.get(str(place[-1]), "")
        if not isinstance(value, str):
            self._wrong(place, f"{place[-1]} = {value!r} is no text", "", f'{place[-1]} = "{value}"')
            return str(value)
        if required and not value:
            self._wrong(place, f"{place[-1]} is missing")
        return value

    def _id(self, table: Mapping[str, Any], place: TomlPath) -> str:
        value = self._text(table, place, required=True)
        if value and not ID.fullmatch(value):
            self._wrong(
                place, f"{place[-1]} = {value!r} cannot name a folder", "letters, digits and . + - only"
            )
        return value

    def _seeds(self, table: Mapping[str, Any], place: TomlPath) -> tuple[int, ...]:
        seeds = table.get("seeds", [1])
        sound = isinstance(seeds, list) and all(isinstance(each, int) and each >= 0 for each in seeds)
        if (
            not sound
            or not seeds
            or len(set(seeds)) < len(seeds)
            or any(isinstance(each, bool) for each in seeds)
        ):
            self._wrong(
                place, f"seeds = {seeds!r} is no list of different whole numbers", "", "seeds = [1, 2, 3]"
            )
            return (1,)
        return tuple(seeds)

    def _settings(self, table: Mapping[str, Any], place: TomlPath) -> Settings:
        flat = dict(_flat(self._table(table, place)))
        if "train.random_seed" in flat:
            self._wrong(
                (*place, "train.random_seed"),
                "train.random_seed is the seed of a cell",
                "",
                "[study] seeds = [1, 2, 3]",
            )
        return flat

    def _claims(self, table: Mapping[str, Any], place: TomlPath, *, has_parent: bool) -> dict[str, Any]:
        claims = self._table(table, place)
        for name, what, why in mistaken_claims(claims, has_parent=has_parent):
            self._wrong((*place, name), what, why)
        return claims

    # --- places ---------------------------------------------------------------------------------

    def _where(self, place: TomlPath) -> str:
        return f"{self.label}:{self.lines[place]}"

    def _places(self, settings: Settings, place: TomlPath) -> dict[str, str]:
        """Keys may be written with dots inside quotes or as nested tables; both are looked for."""
        return {
            key: f"{self.label}:{max(self.lines[(*place, key)], self.lines[(*place, *key.split('.'))])}"
            for key in settings
        }

    def _wrong(self, place: TomlPath, what: str, why: str = "", next: str = "") -> None:
        self.mistakes.append(Mistake(what=what, where=self._where(place), why=why, next=next))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _name_of(value: Any) -> str:
    """The name of a value in ids: 0.5 -> 0.5, true -> y."""
    if isinstance(value, bool):
        return "y" if value else "n"
    if isinstance(value, list):
        return "+".join(map(_name_of, value)) or "none"
    return str(value)
