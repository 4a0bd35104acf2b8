"""The space of a search: which knobs vary, and between what. Told as TOML or on the command line.

    [space]                                                # --space KEY=TEXT
    "optim.learning_rate" = { low = 1e-5, high = 1e-2, log = true }    # 1e-5..1e-2:log
    "train.batch_size" = [2, 4, 8]                                     # 2,4,8
    "optim.warmup_ratio" = { low = 0.0, high = 0.3 }                   # 0..0.3
    "train.epochs" = { low = 2, high = 8, step = 2 }                   # 2..8:2

Keys and values are those of the configuration and are checked against its knobs. A knob that has an effect
only under a value of another one that varies too is drawn where it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import ConfigError
from torchstone.config.knobs import Knob, knobs_of
from torchstone.config.layers import bad_value, unknown_key
from torchstone.config.mistakes import Mistake, raise_all
from torchstone.config.resolve import Resolved
from torchstone.config.toml_lines import read_toml
from torchstone.config.values import BadValue, check, holds, parse, unmet, write

if TYPE_CHECKING:
    from optuna.trial import Trial

FAMILIAR: Mapping[str, Any] = {
    "optim.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": [2, 4, 8],
    "optim.warmup_ratio": {"low": 0.0, "high": 0.3},
    "optim.weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
}
"""What varies where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One knob and what it may be: `values`, or from `low` to `high`, both included."""

    knob: Knob
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    @property
    def key(self) -> str:
        return self.knob.key

    def suggest(self, trial: Trial) -> Any:
        """A legal value of the knob."""
        if self.values:
            texts = [write(self.knob, each) for each in self.values]
            plain = all(isinstance(each, bool | int | float | str) for each in self.values)
            chosen = trial.suggest_categorical(self.key, self.values if plain else texts)
            return chosen if plain else parse(self.knob, str(chosen))
        if self.knob.kind == "int":
            step = int(self.step or 1)
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def to_dict(self) -> dict[str, Any]:
        if self.values:
            return {"values": [write(self.knob, each) for each in self.values]}
        return {"low": self.low, "high": self.high, "step": self.step, "log": self.log}


@dataclass(frozen=True)
class Space:
    """Axes in the order in which they are drawn: what a knob depends on comes first."""

    axes: tuple[Axis, ...]
    base: Resolved

    def draw(self, trial: Trial) -> dict[str, Any]:
        """Key -> value of every knob that has an effect under those drawn before it."""
        knobs, values = knobs_of(self.base.sections), self.base.plain
        drawn: dict[str, Any] = {}
        for axis in self.axes:
            if not unmet(axis.key, knobs, values | drawn):
                drawn[axis.key] = axis.suggest(trial)
        return drawn

    def settings(self, values: Mapping[str, Any], source: str) -> Resolved:
        """The base with these values; a wish of the base that loses its ground under them is an error."""
        return self.base.with_values(values, source)

    def to_dict(self) -> dict[str, Any]:
        return {axis.key: axis.to_dict() for axis in self.axes}


def read_space(base: Resolved, file: Path | None = None, assignments: Sequence[str] = ()) -> Space:
    """The `[space]` of a TOML file with `KEY=TEXT` on top; `FAMILIAR` without either.

    All mistakes are told at once: unknown keys with a suggestion, values that the knob refuses, knobs that
    have no effect or change no result.
    """
    knobs, mistakes = knobs_of(base.sections), list[Mistake]()
    told: dict[str, tuple[Any, str]] = {}
    if file is not None:
        data, lines = read_toml(file, str(file))
        for name in data:
            if name != "space":
                raise ConfigError(
                    f"a space has no section {name!r}", where=f"{file}:{lines[(name,)]}", next="[space]"
                )
        for key, value in _flat(data.get("space", {})):
            told[key] = value, f"{file}:{lines[('space', key)]}"
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(
                f"--space {text!r} has no '='", next="--space optim.learning_rate=1e-5..1e-2:log"
            )
        told[key.strip()] = value.strip(), "--space"
    if not told:
        told = {key: (value, "default") for key, value in FAMILIAR.items()}
    axes = [
        axis for key, (value, where) in told.items() if (axis := _axis(key, value, where, knobs, mistakes))
    ]
    mistakes += _without_effect(axes, base, {key: where for key, (_, where) in told.items()})
    raise_all(mistakes)
    return Space(tuple(_in_order(axes)), base)


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Tables are sections, unless they hold `low`."""
    found = []
    for name, value in data.items():
        if isinstance(value, Mapping) and "low" not in value and "high" not in value:
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _axis(
    key: str, value: Any, where: str, knobs: Mapping[str, Knob], mistakes: list[Mistake]
) -> Axis | None:
    knob = knobs.get(key)
    if knob is None:
        mistakes.append(unknown_key(key, where, knobs))
        return None
    if not knob.changes_result or knob.cosmetic:
        mistakes.append(
            Mistake(what=f"{key} changes no result", where=where, why="there is nothing to search")
        )
        return None
    try:
        return _read_text(knob, value) if isinstance(value, str) else _read_typed(knob, value)
    except BadValue as bad:
        mistakes.append(bad_value(knob, bad, where))
    except ValueError as bad:
        mistakes.append(Mistake(what=f"{key}: {bad}", where=where, next="LOW..HIGH, LOW..HIGH:log or A,B,C"))
    return None


def _read_text(knob: Knob, text: str) -> Axis:
    low, dots, rest = text.partition("..")
    if not dots:
        return _choices(knob, [parse(knob, part.strip()) for part in text.split(",")])
    high, _, how = rest.partition(":")
    step = None if how in ("", "log") else float(how)
    return _range(knob, parse(knob, low), parse(knob, high), step, log=how == "log")


def _read_typed(knob: Knob, value: Any) -> Axis:
    if isinstance(value, list):
        return _choices(knob, [check(knob, each) for each in value])
    if isinstance(value, Mapping):
        unknown = value.keys() - {"low", "high", "step", "log"}
        if unknown or not {"low", "high"} <= value.keys():
            raise ValueError(f"a range has low, high, step and log; this one has {', '.join(value)}")
        low, high, step = check(knob, value["low"]), check(knob, value["high"]), value.get("step")
        if not isinstance(step, int | float | None):
            raise ValueError(f"{step!r} is no step")
        return _range(knob, low, high, step, log=bool(value.get("log")))
    raise ValueError(f"{value!r} is neither a list of values nor a range")


def _choices(knob: Knob, values: Sequence[Any]) -> Axis:
    if len(set(values)) < 2:
        raise ValueError("one value alone is nothing to search; set it in the base")
    return Axis(knob=knob, values=tuple(dict.fromkeys(values)))


def _range(knob: Knob, low: Any, high: Any, step: float | None, *, log: bool) -> Axis:
    if knob.kind not in ("int", "float") or knob.many:
        raise ValueError("a range needs a number; name the values")
    if low is None or high is None or not low < high:
        raise ValueError(f"the range {low} to {high} is empty")
    if log and (low <= 0 or step is not None):
        raise ValueError("a logarithmic range begins above 0 and has no step")
    if step is not None and not (step > 0 and (knob.kind == "float" or float(step).is_integer())):
        raise ValueError(f"{step} is no step")
    return Axis(knob=knob, low=low, high=high, step=step, log=log)


def _without_effect(axes: Sequence[Axis], base: Resolved, where: Mapping[str, str]) -> list[Mistake]:
    """Knobs that no value of the others brings into effect."""
    knobs, found = knobs_of(base.sections), []
    varied = {axis.key: axis for axis in axes}
    for axis in axes:
        for condition in unmet(axis.key, knobs, base.plain):
            other = varied.get(condition.key)
            if other is None or not any(holds(condition, other.knob, value) for value in other.values):
                found.append(
                    Mistake(
                        what=f"{axis.key} has no effect in this search",
                        where=where[axis.key],
                        why=f"it needs {condition}",
                        next=f"--set {condition.key}=..., or let {condition.key} vary too",
                    )
                )
    return found


def _in_order(axes: Sequence[Axis]) -> list[Axis]:
    left, placed = list(axes), list[Axis]()
    while left:
        keys = {axis.key for axis in left}
        ready = [axis for axis in left if not any(each.key in keys for each in axis.knob.conditions)]
        placed += ready  # conditions have no cycle: `knobs_of` sees to it
        left = [axis for axis in left if axis not in ready]
    return placed
