"""What `set` does not touch is as the parent has it: first weights, optimizer, learning rates, data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from torchstone.config.resolve import differences
from torchstone.study.prove.claims import FACETS
from torchstone.study.prove.evidence import ClaimResult, Evidence

_NOT_OPTIONS = {
    "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable", "maximize",
    "decoupled_weight_decay",
}  # fmt: skip
"""How an optimizer is computed, and what the schedule sets."""
_SCHEDULE_KEYS = ("schedule", "learning_rate", "warmup_ratio", "final_learning_rate_ratio", "decay_ratio",
                  "decay_form")  # fmt: skip
_SIZES_OF_THE_START = ("model.num_layers", "model.d_model", "model.target")


def facets_kept(own: Evidence, parent: Evidence) -> Iterator[ClaimResult]:
    """What `set` does not touch is as the parent has it."""
    claims = own.arm.claims
    touched = {each.key for each in differences(parent.arm.settings, own.arm.settings)}
    for name in FACETS:
        if name in claims.get("changed", ()):
            differs = _MEASURED[name](own, parent, set())
            measured = differs or "as in the parent"
            yield ClaimResult(
                claim=f"changed {name}", expected="differs", measured=measured, holds=bool(differs)
            )
        elif name in claims.get("unchanged", ()):
            differs = _MEASURED[name](own, parent, set())
            measured = differs or f"as in {parent.arm.id}"
            yield ClaimResult(
                claim=f"unchanged {name}", expected="equal", measured=measured, holds=not differs
            )
        else:
            differs = _MEASURED[name](own, parent, touched)
            if differs is not None:
                measured = differs or f"as in {parent.arm.id}"
                yield ClaimResult(
                    claim=f"unchanged {name}", expected="equal", measured=measured, holds=not differs
                )


def begins_elsewhere(own: Evidence, parent: Evidence, touched: set[str]) -> str | None:
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


_MEASURED: dict[str, Callable[[Evidence, Evidence, set[str]], str | None]] = {
    "init": begins_elsewhere,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "data": _data,
}
