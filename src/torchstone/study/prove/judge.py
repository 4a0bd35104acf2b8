"""Claims against what was measured: those of a step, and those that every step makes without saying so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchstone._errors import TorchstoneError
from torchstone.config.knobs import knobs_of
from torchstone.config.resolve import Resolved
from torchstone.study.prove.claims import holds, is_absolute
from torchstone.study.prove.evidence import (
    SAME,
    ClaimResult,
    Evidence,
    assigned,
    listed,
    matching,
    output_with,
    relative,
    told,
    update_difference,
)
from torchstone.study.prove.facets import facets_kept
from torchstone.study.prove.trial import evaluated, sharpen
from torchstone.study.prove.twin import MICRO_STEPS, UPDATES

_SPARSITY_WITHIN = 0.02
"""Whole channels and heads of a small twin do not make every share."""


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
        found += facets_kept(own, parent)
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
    sharpen(loaded)
    with torch.no_grad():
        for name, each in loaded.module.named_parameters():
            if name in shared and shared[name].shape == each.shape:
                each.copy_(shared[name])
    yield _compared("start", expected, evaluated(loaded), parent.trial.start_output)


def _neutral(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    assert parent is not None
    output = output_with(own, dict(expected))
    difference = relative(output, parent.trial.output)
    yield ClaimResult(
        claim="neutral",
        expected=f"equals {parent.arm.id} with {assigned(expected)}",
        measured=told(difference),
        holds=difference is not None and difference <= SAME,
    )


def _update(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    """Of the weights that both have, the way they went."""
    assert parent is not None
    difference = update_difference(own, parent)
    yield ClaimResult(
        claim="update",
        expected=str(expected),
        measured=told(difference),
        holds=difference is not None and (difference > SAME) is (expected == "differs"),
    )


def _gradient(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    knobs = knobs_of(own.twin.sections)
    for wish in expected:
        names = matching(wish, own.trial.parameters)
        if names:
            silent = [name for name in names if name in own.trial.silent]
            measured = f"none reaches {listed(silent)}" if silent else f"reaches all {len(names)}"
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
    difference = relative(output_with(own, {key: other}), own.trial.output)
    reached = difference is not None and difference > SAME
    measured = f"{value} to {other:g}: {told(difference)}"
    return ClaimResult(claim="gradient", expected=key, measured=measured, holds=reached)


def _no_gradient(expected: Any, own: Evidence, parent: Evidence | None) -> Iterator[ClaimResult]:
    for wish in expected:
        names = matching(wish, own.trial.parameters)
        loud = [name for name in names if name not in own.trial.silent]
        measured = (
            "there is no such parameter" if not names else f"reaches {listed(loud)}" if loud else "none"
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
    measured = f"none reaches {listed(silent)}" if silent else "reaches all"
    yield ClaimResult(claim="gradient", expected="every parameter", measured=measured, holds=not silent)
    told_of = {*spared, *silent}
    rounding = [name for name in own.trial.still if name in own.trial.faint and name not in told_of]
    still = [name for name in own.trial.still if name not in told_of and name not in rounding]
    but = f", but {listed(rounding)}, whose gradient is rounding" if rounding else ""
    measured = f"{listed(still)} stayed" if still else f"all moved{but}"
    yield ClaimResult(claim="moves", expected="every parameter", measured=measured, holds=not still)


def _equal_effort(own: Evidence, parent: Evidence) -> Iterator[ClaimResult]:
    for name in ("tokens_per_update", "updates"):
        unknown = own.quantity(name) is None and parent.quantity(name) is None
        if name not in own.arm.claims and not unknown:
            yield _quantity(name, "+0", own, parent)


def _compared(claim: str, expected: Any, ours: Tensor | None, theirs: Tensor | None) -> ClaimResult:
    difference = relative(ours, theirs)
    if difference is None:
        measured, differs = "of another shape" if ours is not None and theirs is not None else "unknown", True
        fits = expected == "differs" and ours is not None and theirs is not None
    else:
        measured, differs = told(difference), difference > SAME
        fits = differs is (expected == "differs")
    return ClaimResult(claim=claim, expected=str(expected), measured=measured, holds=fits)
