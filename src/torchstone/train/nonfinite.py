"""A loss or gradient that is not finite: which module made it, an error that says so, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._errors import TorchstoneError
from torchstone._seeds import preserved_rng, restore_torch_rng
from torchstone.train.step import Micro, Objective, StepOutcome


class NonFinite(TorchstoneError):
    """Training stopped at the first step whose loss or gradient was not finite."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a bad step leads to. It is never applied, whatever the policy."""

    name: str = "stop"
    """stop, skip (go on with the next data) or rollback (to the newest checkpoint, then the next data)."""
    limit: int = 3
    """Bad steps in a row that skip and rollback put up with."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where values stopped being finite."""

    module: str
    direction: str
    """forward or backward."""


def diagnose(
    module: nn.Module,
    objective: Objective,
    window: Sequence[Micro],
    outcome: StepOutcome,
    step: int,
    rng: dict[str, Tensor],
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> NonFinite:
    """The error for a bad step. Repeats it with the generators it began with, watching every module."""
    loss = outcome.total("loss") / max(outcome.targets, 1)
    bad_loss = not math.isfinite(loss)
    origin, parameter = find_origin(module, objective, window, rng, autocast)
    where = f"step {step}"
    if origin:
        where += f", module {origin.module}"
    elif parameter:
        where += f", gradient of {parameter}"
    what, value = ("loss", loss) if bad_loss else ("gradient", outcome.update.norm.item())
    return NonFinite(
        f"the {what} became {value}; the step was not applied",
        where=where,
        why=_why(origin, bad_loss),
        next="lower optim.learning_rate, or look at the data of this step",
    )


def _why(origin: Origin | None, bad_loss: bool) -> str:
    if origin is None:
        return (
            "no single module could be blamed"
            if bad_loss
            else "the forward pass is finite, the backward pass is not"
        )
    if origin.direction == "forward":
        return f"{origin.module} turns finite inputs into values that are not"
    return f"the backward pass of {origin.module} turns finite gradients into values that are not"


def find_origin(
    module: nn.Module,
    objective: Objective,
    window: Sequence[Micro],
    rng: dict[str, Tensor],
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[Origin | None, str | None]:
    """The innermost module that first breaks the values, forward or backward; and the first bad gradient.

    Weights, buffers, gradients and generators are left as they were.
    """
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    kept = [(each, each.grad) for each in module.parameters()]
    buffers = [(each, each.clone()) for each in module.buffers()]
    watch = _Watch(module)
    try:
        with preserved_rng(), watch:
            restore_torch_rng(rng, device)
            module.zero_grad(set_to_none=True)
            for batch in window:
                with autocast():
                    loss = objective.loss_sum(batch)
                if watch.origin is None and loss.requires_grad and bool(torch.isfinite(loss)):
                    loss.backward()  # type: ignore[no-untyped-call]
        return watch.origin, first_bad_gradient(module)
    finally:
        for each, gradient in kept:
            each.grad = gradient
        for buffer, value in buffers:
            buffer.copy_(value)


class _Watch:
    """Hooks on every module; the first that breaks what was sound is the origin."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.origin: Origin | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> _Watch:
        # Inner modules finish before outer ones, so the first hook to fire is the innermost.
        for name, each in self.module.named_modules():
            if name:
                self._handles.append(each.register_forward_hook(self._forward(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _forward(self, name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if self.origin is None and _broken(output) and not _broken(inputs):
                self.origin = Origin(name, "forward")
            out_of, into = list(_flowing(output)), list(_flowing(inputs))
            if out_of and into:
                self._watch_backward(name, out_of, into)

        return hook

    def _watch_backward(self, name: str, out_of: list[Tensor], into: list[Tensor]) -> None:
        sound: set[int] = set()

        def arrives(gradient: Tensor) -> None:
            sound.add(0 if bool(torch.isfinite(gradient).all()) else 1)

        def leaves(gradient: Tensor) -> None:
            if self.origin is None and sound == {0} and not bool(torch.isfinite(gradient).all()):
                self.origin = Origin(name, "backward")

        for each in out_of:
            self._handles.append(each.register_hook(arrives))  # type: ignore[no-untyped-call]
        for each in into:
            self._handles.append(each.register_hook(leaves))  # type: ignore[no-untyped-call]


def _flowing(value: Any) -> Any:
    """Tensors that a gradient flows through."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _flowing(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _flowing(each)


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
