"""Claims against what was measured: those of a step, and those that every step makes without saying so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from torchstone._errors import TorchstoneError
from torchstone.config.knobs import knobs_of
from torchstone.config.resolve import Resolved, differences
from torchstone.study.prove.bench import Bench
from torchstone.study.prove.claims import FACETS, holds, is_absolute
from torchstone.study.prove.full_size import FullSize
from torchstone.study.prove.trial import Trial, draw_alike, evaluated
from torchstone.study.prove.twin import MICRO_STEPS, SCALED_STEPS, UPDATES, Scale, tokens_per_update
from torchstone.study.records import Arm

SAME = 1e-6
"""Relative difference, in double precision, below which two functions are one."""
_SPARSITY_WITHIN = 0.02
"""Whole channels and heads of a small twin do not make every share."""
_NOT_OPTIONS = {
    "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable", "maximize",
    "decoupled_weight_decay",
}  # fmt: skip
"""How an optimizer is computed, and what the schedule sets."""
_SCHEDULE_KEYS = ("schedule", "learning_rate", "warmup_ratio", "final_learning_rate_ratio", "decay_ratio",
                  "decay_form")  # fmt: skip
_SIZES_OF_THE_START = ("model.num_layers", "model.d_model", "model.target")


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim, what was expected and what was measured."""

    claim: str
    expected: str
    measured: str | int | float | None
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "claim": self.claim,
            "expected": self.expected,
            "measured": self.measured,
            "holds": self.holds,
        }


@dataclass(kw_only=True)
class Evidence:
    """What is known of one arm."""

    arm: Arm
    full: FullSize
    twin: Resolved
    trial: Trial
    scale: Scale
    bench: Bench
    length: int
    """Tokens of a training sequence at full size."""

    def quantity(self, name: str) -> int | float | None:
        """The value of a claim that is a number."""
        if name == "tokens_per_update":
            return tokens_per_update(self.arm.settings, self.full.config.get("max_seq_len"))
        if name == "updates":
            loop = self.arm.settings.train
            return int(loop.max_steps) if loop.max_steps is not None else int(loop.epochs)
        value: int | float | None = getattr(self.full, name)
        return value


QUANTITIES = ("parameters", "flops", "kv_bytes_per_token", "tokens_per_update", "updates")


def judge(own: Evidence, parent: Evidence | None, twins_alike: str | None) -> list[ClaimResult]:
    """Every claim of one arm, declared or not; `twins_alike` names an arm that is the same thing."""
    found = list(_declared(own, parent))
    found += _life(own)
    promised = promised_sparsity(own.arm.settings)
    if promised is not None and "sparsity" not in own.arm.claims:
        found += _sparsity(promised, own, parent)
    if parent is not None:
        found += _equal_effort(own, parent)
        found += _facets(own, parent)
    if twins_alike is not None:
        measured = f"the same model and recipe as {twins_alike}"
        found.append(ClaimResult(claim="distinct", expected="no other arm", measured=measured, holds=False))
    else:
        found.append(ClaimResult(claim="distinct", expected="no other arm", measured="none", holds=True))
    return found


# --- what a step says ---------------------------------------------------------------------------


def _declared(own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    for name, expected in own.arm.claims.items():
        if name in QUANTITIES:
            yield _quantity(name, str(expected), own, parent)
        elif name in _MEASURES:
            try:
                yield from _MEASURES[name](expected, own, parent)
            except Exception as error:
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                yield ClaimResult(claim=name, expected=str(expected), measured=text, holds=False)


def _quantity(name: str, expected: str, own: Evidence, parent: Evidence | None) -> ClaimResult:
    value = own.quantity(name)
    before = parent.quantity(name) if parent is not None else None
    if value is None or (before is None and not is_absolute(expected)):
        measured = own.full.note or "the model tells none"
        return ClaimResult(claim=name, expected=expected, measured=measured, holds=False)
    measured_text = _change(value, before, expected)
    return ClaimResult(
        claim=name, expected=expected, measured=measured_text, holds=holds(expected, value, before)
    )


def _change(value: int | float, before: int | float | None, expected: str) -> str:
    if before is None or is_absolute(expected):
        return f"={value}"
    if expected.startswith("x"):
        return f"x{value / before:.4g}" if before else f"{value} for 0"
    return f"{value - before:+}"


def _output(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    assert parent is not None
    yield _compared("output", expected, own.trial.output, parent.trial.output)


def _start(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    assert parent is not None
    shared = parent.trial.parameters
    loaded = own.bench.load(own.arm.id, own.twin)
    loaded.module.double()
    with torch.no_grad():
        for name, each in loaded.module.named_parameters():
            if name in shared and shared[name].shape == each.shape:
                each.copy_(shared[name])
    yield _compared("start", expected, evaluated(loaded), parent.trial.start_output)


def _neutral(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    assert parent is not None
    output = _output_with(own, dict(expected))
    difference = _relative(output, parent.trial.output)
    yield ClaimResult(
        claim="neutral",
        expected=f"equals {parent.arm.id} with {_assigned(expected)}",
        measured=_told(difference),
        holds=difference is not None and difference <= SAME,
    )


def _update(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    """Of the weights that both have, the way they went."""
    assert parent is not None
    difference = _update_difference(own, parent)
    yield ClaimResult(
        claim="update",
        expected=str(expected),
        measured=_told(difference),
        holds=difference is not None and (difference > SAME) is (expected == "differs"),
    )


def _gradient(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    knobs = knobs_of(own.twin.sections)
    for wish in expected:
        names = matching(wish, own.trial.parameters)
        if names:
            silent = [name for name in names if name in own.trial.silent]
            measured = f"none reaches {_listed(silent)}" if silent else f"reaches all {len(names)}"
            yield ClaimResult(claim="gradient", expected=wish, measured=measured, holds=not silent)
        elif wish in knobs:
            yield _knob(wish, own)
        else:
            measured = "there is no such parameter and no such knob"
            yield ClaimResult(claim="gradient", expected=wish, measured=measured, holds=False)


def _knob(key: str, own: Evidence) -> ClaimResult:
    """Whether the output depends on a knob: it is moved a little."""
    value = own.twin.plain[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        return ClaimResult(claim="gradient", expected=key, measured=f"{value!r} is no number", holds=False)
    other = value + 1 if isinstance(value, int) else value * 1.1 + 0.01
    difference = _relative(_output_with(own, {key: other}), own.trial.output)
    reached = difference is not None and difference > SAME
    measured = f"{value} to {other:g}: {_told(difference)}"
    return ClaimResult(claim="gradient", expected=key, measured=measured, holds=reached)


def _no_gradient(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    for wish in expected:
        names = matching(wish, own.trial.parameters)
        loud = [name for name in names if name not in own.trial.silent]
        measured = (
            "there is no such parameter" if not names else f"reaches {_listed(loud)}" if loud else "none"
        )
        yield ClaimResult(
            claim="no_gradient", expected=wish, measured=measured, holds=bool(names) and not loud
        )


def _optimizer_state(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    for name in expected:
        history = own.trial.states.get(name)
        if history is None:
            measured = f"there is none; there are {', '.join(own.trial.states) or 'no entries'}"
        else:
            measured = ", ".join(f"{each:.4g}" for each in history)
        moved = history is not None and len(history) > 1 and len(set(history)) > 1
        yield ClaimResult(claim="optimizer_state", expected=f"{name} changes", measured=measured, holds=moved)


def _sparsity(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    found = own.trial.sparsity
    measured = "nothing is pruned" if found is None else f"{found:.4f}"
    reached = found is not None and abs(found - float(expected)) <= _SPARSITY_WITHIN
    yield ClaimResult(claim="sparsity", expected=f"{expected:g}", measured=measured, holds=reached)


def promised_sparsity(settings: Resolved) -> float | None:
    """What `prune.*` promises for the end; None: nothing is pruned."""
    prune = settings.prune
    if prune.method == "none":
        return None
    if ":" in prune.pattern:
        keep, group = map(int, prune.pattern.split(":"))
        return 1 - keep / group
    return float(prune.sparsity)


_MEASURES: dict[str, Callable[[Any, Evidence, Evidence | None], Iterator[ClaimResult]]] = {
    "output": _output,
    "start": _start,
    "neutral": _neutral,
    "update": _update,
    "gradient": _gradient,
    "no_gradient": _no_gradient,
    "optimizer_state": _optimizer_state,
    "sparsity": _sparsity,
}


# --- what every step says -----------------------------------------------------------------------


def _life(own: Evidence) -> Iterator[ClaimResult]:
    """It learns, from every parameter, in every parameter; leaks nothing; goes on where it was stopped."""
    trial = own.trial
    for each in trial.checks:
        if each.status != "skip":
            sound = each.status in ("pass", "warn")
            where = f" ({each.module})" if each.module and not sound else ""
            yield ClaimResult(claim=each.id, expected="pass", measured=each.summary + where, holds=sound)
    for part, error in trial.broken.items():
        what = error.what if isinstance(error, TorchstoneError) else str(error)
        measured = f"{type(error).__name__}: {what}".splitlines()[0]
        yield ClaimResult(claim=part, expected=_PARTS[part], measured=measured, holds=False)
    if trial.trained:
        way = f"loss {trial.losses[0]:.4f} to {trial.losses[-1]:.4f}" if trial.losses else "trained"
        yield ClaimResult(claim="training", expected=_PARTS["training"], measured=way, holds=True)
        yield from _reached(own)
    if "resume" not in trial.broken and trial.trained:
        measured = trial.resumed or "equal in every bit"
        yield ClaimResult(
            claim="resume", expected=_PARTS["resume"], measured=measured, holds=not trial.resumed
        )


_PARTS = {
    "build": "the model is built",
    "output": "the model answers",
    "checks": "the model can be checked",
    "training": f"{UPDATES} updates of {MICRO_STEPS} micro-batches",
    "resume": "resumed as if it had never been stopped",
}


def _reached(own: Evidence) -> Iterator[ClaimResult]:
    spared = {
        name
        for wish in own.arm.claims.get("no_gradient", ())
        for name in matching(wish, own.trial.parameters)
    }
    silent = [name for name in own.trial.silent if name not in spared]
    measured = f"none reaches {_listed(silent)}" if silent else "reaches all"
    yield ClaimResult(claim="gradient", expected="every parameter", measured=measured, holds=not silent)
    still = [name for name in own.trial.still if name not in spared and name not in silent]
    measured = f"{_listed(still)} stayed" if still else "all moved"
    yield ClaimResult(claim="moves", expected="every parameter", measured=measured, holds=not still)


def _equal_effort(own: Evidence, parent: Evidence) -> Iterator[ClaimResult]:
    for name in ("tokens_per_update", "updates"):
        if name not in own.arm.claims:
            yield _quantity(name, "+0", own, parent)


def _facets(own: Evidence, parent: Evidence) -> Iterator[ClaimResult]:
    """What `set` does not touch is as the parent has it."""
    claims = own.arm.claims
    touched = {each.key for each in differences(parent.arm.settings, own.arm.settings)}
    for name in FACETS:
        if name in claims.get("changed", ()):
            differs = _FACETS[name](own, parent, set())
            measured = differs or "as in the parent"
            yield ClaimResult(
                claim=f"changed {name}", expected="differs", measured=measured, holds=bool(differs)
            )
        elif name in claims.get("unchanged", ()):
            differs = _FACETS[name](own, parent, set())
            measured = differs or f"as in {parent.arm.id}"
            yield ClaimResult(
                claim=f"unchanged {name}", expected="equal", measured=measured, holds=not differs
            )
        else:
            differs = _FACETS[name](own, parent, touched)
            if differs is not None:
                measured = differs or f"as in {parent.arm.id}"
                yield ClaimResult(
                    claim=f"unchanged {name}", expected="equal", measured=measured, holds=not differs
                )


def _init(own: Evidence, parent: Evidence, touched: set[str]) -> str | None:
    """How a parameter that both have begins otherwise; none by much more than chance."""
    if touched & set(_SIZES_OF_THE_START):
        return None
    for name, value in own.trial.parameters.items():
        before = parent.trial.parameters.get(name)
        if before is None or before.shape != value.shape or value.numel() < 2:
            continue
        ours, theirs = _spread(value), _spread(before)
        if (ours == 0) != (theirs == 0) or (ours == 0 and not torch.equal(value, before)):
            return f"{name} begins with {_begins(value)}, in the parent with {_begins(before)}"
        chance = 6 / math.sqrt(value.numel())  # six standard errors of the ratio of two spreads
        if ours and value.numel() >= 64 and abs(math.log(ours / theirs)) > chance:
            return f"{name} begins with a spread of {ours:.3g}, in the parent {theirs:.3g}"
    return ""


def _spread(value: Tensor) -> float:
    return float(value.std(correction=0))


def _begins(value: Tensor) -> str:
    return f"{float(value.flatten()[0]):.4g}" if _spread(value) == 0 else f"a spread of {_spread(value):.3g}"


def _optimizer(own: Evidence, parent: Evidence, touched: set[str]) -> str | None:
    ours, theirs = own.trial, parent.trial
    if not ours.options or not theirs.options:
        return None
    if ours.optimizer != theirs.optimizer and "optim.name" not in touched:
        return f"{ours.optimizer}, in the parent {theirs.optimizer}"
    for name, options in ours.options.items():
        before = theirs.options.get(name)
        if before is None or own.trial.parameters[name].shape != parent.trial.parameters[name].shape:
            continue
        for option in options.keys() & before.keys() - _NOT_OPTIONS:
            if options[option] != before[option] and not _is_said(option, touched):
                return f"{option} of {name} is {options[option]}, in the parent {before[option]}"
    return ""


def _is_said(option: str, touched: set[str]) -> bool:
    if option == "betas":
        return bool({"optim.beta1", "optim.beta2"} & touched)
    return any(key.startswith("optim.") and key.endswith(option) for key in touched)


def _schedule(own: Evidence, parent: Evidence, touched: set[str]) -> str | None:
    if any(f"optim.{key}" in touched for key in _SCHEDULE_KEYS) or any(
        "optim.rate_" in key for key in touched
    ):
        return None
    for step, (ours, theirs) in enumerate(zip(own.trial.rates, parent.trial.rates, strict=False), 1):
        if not math.isclose(ours, theirs, rel_tol=1e-9):
            return f"step {step} has a learning rate of {ours:.4g}, in the parent {theirs:.4g}"
    return ""


def _data(own: Evidence, parent: Evidence, touched: set[str]) -> str | None:
    keys = {
        key
        for key in touched
        if key.startswith("data.") or key in ("train.batch_size", "model.vocab_size", "model.max_seq_len")
    }
    if keys:
        return None
    real = [
        each for each in differences(parent.arm.settings, own.arm.settings) if each.key.startswith("data.")
    ]
    if real:
        return f"{real[0].key} is another"
    return "" if own.trial.data == parent.trial.data else "the same seed gives other batches"


_FACETS: dict[str, Callable[[Evidence, Evidence, set[str]], str | None]] = {
    "init": _init,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "data": _data,
}


# --- the same thing under two names -------------------------------------------------------------


def alike(own: Evidence, other: Evidence) -> bool:
    """Whether two arms are one model with one recipe, whatever their configurations say."""
    if own.full.shapes != other.full.shapes or not own.trial.trained or not other.trial.trained:
        return False
    if _recipe(own) != _recipe(other):
        return False
    if own.trial.data != other.trial.data or own.trial.rates != other.trial.rates:
        return False
    output = _relative(own.trial.output, other.trial.output)
    update = _update_difference(own, other)
    same = output is not None and output <= SAME and update is not None and update <= SAME
    return same and not _init(own, other, set())


def _recipe(each: Evidence) -> dict[str, Any]:
    """What the twin does not live through: data, loop, and intervals that shrank."""
    knobs = knobs_of(each.arm.settings.sections)
    plain = each.arm.settings.plain
    found = {key: value for key, value in plain.items() if key.startswith(("data.", "train."))}
    for key, knob in knobs.items():
        if knob.unit == SCALED_STEPS and key.startswith(("optim.", "prune.")):
            found[key] = (plain[key], each.twin.plain[key])
    return found


def _update_difference(own: Evidence, other: Evidence) -> float | None:
    """Relative difference of the ways that shared parameters went; None where they share none."""
    above, below = 0.0, 0.0
    for name, value in own.trial.trained.items():
        before = other.trial.trained.get(name)
        if before is not None and before.shape == value.shape:
            above = max(above, float((value - before).abs().max()))
            below = max(below, float((value - own.trial.drawn[name]).abs().max()))
    if not below:
        return None
    return above / below


# --- small things -------------------------------------------------------------------------------


def matching(wish: str, names: Mapping[str, Any]) -> list[str]:
    """Parameters that a pattern, the end of a name, or a knob's key without `model.` stands for."""
    ends = (wish, wish.removeprefix("model."))
    return [
        name
        for name in names
        if fnmatchcase(name, wish) or any(name == end or name.endswith(f".{end}") for end in ends)
    ]


def _output_with(own: Evidence, changes: dict[str, Any]) -> Tensor:
    sizes = own.scale.sizes or {}
    small = {
        key: sizes.get((key, value), value) if isinstance(value, int) else value
        for key, value in changes.items()
    }
    loaded = own.bench.load(own.arm.id, own.twin.with_values(small, "the claim"))
    loaded.module.double()
    draw_alike(loaded.module)
    return evaluated(loaded)


def _compared(claim: str, expected: Any, ours: Tensor | None, theirs: Tensor | None) -> ClaimResult:
    difference = _relative(ours, theirs)
    if difference is None:
        measured, differs = "of another shape" if ours is not None and theirs is not None else "unknown", True
        fits = expected == "differs" and ours is not None and theirs is not None
    else:
        measured, differs = _told(difference), difference > SAME
        fits = differs is (expected == "differs")
    return ClaimResult(claim=claim, expected=str(expected), measured=measured, holds=fits)


def _relative(ours: Tensor | None, theirs: Tensor | None) -> float | None:
    """Largest difference over the spread; None where the two cannot be compared."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300))


def _told(difference: float | None) -> str:
    return (
        "cannot be compared"
        if difference is None
        else f"differs by {difference:.1e}"
        if difference
        else "equal"
    )


def _assigned(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
