"""A loss or gradient that is not finite: which module made it, and an error that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._errors import TorchstoneError
from torchstone.train.step import Micro, Objective, StepOutcome


class NonFinite(TorchstoneError):
    """Training stopped at the first step whose loss or gradient was not finite."""


def diagnose(
    module: nn.Module, objective: Objective, window: Sequence[Micro], outcome: StepOutcome, step: int
) -> NonFinite:
    """The error for a bad step. Runs the window forward once more, watching every module's output."""
    bad_loss = not math.isfinite(outcome.loss)
    guilty = first_module_to_break(module, objective, window) if bad_loss else None
    parameter = first_bad_gradient(module)
    where = f"step {step}"
    if guilty:
        where += f", module {guilty}"
    elif parameter:
        where += f", gradient of {parameter}"
    what = "loss" if bad_loss else "gradient"
    value = outcome.loss if bad_loss else outcome.grad_norm
    return NonFinite(
        f"the {what} became {value}; training stopped before the weights were touched",
        where=where,
        why=(
            f"{guilty} turns finite inputs into values that are not"
            if guilty
            else "the forward pass is finite, the backward pass is not"
            if not bad_loss
            else "no single module could be blamed"
        ),
        next="lower optim.learning_rate, or look at the data of this step",
    )


def first_module_to_break(module: nn.Module, objective: Objective, window: Sequence[Micro]) -> str | None:
    """The innermost module that is first to give a non-finite output for finite inputs."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if not found and _broken(output) and not _broken(inputs):
                found.append(name)

        return hook

    # Inner modules finish before outer ones, so the first hook to fire is the innermost.
    handles = [each.register_forward_hook(watch(name)) for name, each in module.named_modules() if name]
    try:
        with torch.no_grad():
            for batch in window:
                objective.loss_sum(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def first_bad_gradient(module: nn.Module) -> str | None:
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return name
    return None


def all_finite(module: nn.Module) -> bool:
    """Whether weights and buffers are still sound enough to be saved."""
    return all(
        bool(torch.isfinite(tensor).all())
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_floating_point()
    )


def _broken(value: Any) -> bool:
    """NaN or plus infinity somewhere; minus infinity is what attention masks are made of."""
    if isinstance(value, Tensor):
        return value.is_floating_point() and bool((value.isnan() | (value == torch.inf)).any())
    if isinstance(value, dict):
        return any(_broken(each) for each in value.values())
    if isinstance(value, tuple | list):
        return any(_broken(each) for each in value)
    return False
