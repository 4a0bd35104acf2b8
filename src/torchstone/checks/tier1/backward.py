"""Backward passes for probing: gradients of an objective, small steps, and who is deaf to them.

Everything happens in place on the user's module; the runner puts it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.checks.tier1.objective import objective

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context

_NUDGE = 0.02
"""Size of a perturbation where a parameter has no spread of its own."""


@dataclass(frozen=True)
class Backward:
    """One backward pass: the loss and each trainable parameter's gradient (None: not reached)."""

    loss: float
    connected: bool
    """Whether the loss depends on any parameter at all."""
    gradients: dict[str, Tensor | None]

    def silent(self) -> list[str]:
        """Parameters without a gradient, or with one that is exactly zero."""
        return [name for name, each in self.gradients.items() if each is None or not bool((each != 0).any())]


def backward(context: Context, batch: Batch, *, train: bool = True, seed: int = 0) -> Backward:
    """Gradients of the objective on `batch`; the user's `.grad` stays empty."""
    output = context.forward(batch, train=train, grad=True, seed=seed)
    loss = objective(context, batch, output, seed=context.seed).loss(output)
    return gradients_of(context.module, loss)


def gradients_of(module: nn.Module, loss: Tensor) -> Backward:
    trainable = {name: each for name, each in module.named_parameters() if each.requires_grad}
    if not loss.requires_grad:
        return Backward(float(loss.detach()), False, dict.fromkeys(trainable))
    found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    return Backward(float(loss.detach()), True, dict(zip(trainable, found, strict=True)))


def small_step(module: nn.Module, gradients: dict[str, Tensor | None], size: float = 1e-3) -> None:
    """One step against the sign of the gradient: what the first step of Adam does."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, gradient in gradients.items():
            if gradient is not None:
                parameters[name].sub_(size * gradient.nan_to_num(0.0).sign())


def shake(module: nn.Module, seed: int, strength: float = 0.5, names: set[str] | None = None) -> None:
    """Add noise to the parameters, so that zero starts and other special points are left."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in module.named_parameters():
            if (names is None or name in names) and each.is_floating_point() and each.numel():
                each.add_(noise_like(each, generator, strength))


def noise_like(tensor: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    values = tensor.detach().float()
    spread = float(values.std()) if values.numel() > 1 else 0.0
    size = max(spread, 0.1 * float(values.abs().mean()), _NUDGE)
    noise = torch.randn(tensor.shape, generator=generator) * (size * strength)
    return noise.to(device=tensor.device, dtype=tensor.dtype)


@contextmanager
def shaken_tensors(tensors: list[Tensor], seed: int, strength: float = 0.5) -> Iterator[None]:
    """Noise on these tensors for the length of the block."""
    before = [each.detach().clone() for each in tensors]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for each in tensors:
                each.data.add_(noise_like(each, generator, strength))
        yield
    finally:
        with torch.no_grad():
            for each, value in zip(tensors, before, strict=True):
                each.data.copy_(value)


def influence(answer: Callable[[], list[Tensor]], tensors: list[Tensor], strength: float = 0.02) -> float:
    """How much the answer moves under small noise on `tensors`, relative to its size; the least of three.

    The least: a choice (top-k, argmax) jumps now and then, a smooth influence moves every time.
    """
    clean = answer()
    moves = []
    for seed in range(3):
        with shaken_tensors(tensors, seed, strength):
            moves.append(apart(clean, answer()))
        if moves[-1] == 0.0:
            break
    return min(moves)


def apart(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest difference between two answers, relative to their size; a changed shape is a difference of
    one.
    """
    worst = 0.0
    if len(first) != len(second):
        return 1.0
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            return 1.0
        if not a.numel():
            continue
        x, y = (each.detach().float().nan_to_num(0.0, 0.0, 0.0) for each in (a, b))
        size = float(x.abs().max())
        worst = max(worst, float((x - y).abs().max()) / (size or 1.0))
    return worst


def owners(names: list[str]) -> list[str]:
    """Modules that hold these parameters, each once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def cutting_module(module: nn.Module, run: Callable[[], Any]) -> str | None:
    """The innermost module whose answer lost its gradient although its inputs or weights had one."""
    from torch.utils._pytree import tree_leaves

    from torchstone.adapt.stack import state_of

    found: list[str] = []
    handles = []

    def watch(name: str) -> Callable[..., None]:
        def hook(each: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            state = state_of(output)
            # With gradients switched off, the one who switched them off is to blame: its hook comes later.
            if found or state is None or state.requires_grad or not torch.is_grad_enabled():
                return
            # A table of positions takes the state for its type only; what has its shape carries it.
            given = any(
                isinstance(x, Tensor) and x.requires_grad and x.shape == state.shape
                for x in tree_leaves((args, kwargs))
            )
            if given or any(p.requires_grad for p in each.parameters()):
                found.append(name)

        return hook

    try:
        for name, each in module.named_modules():
            handles.append(each.register_forward_hook(watch(name), with_kwargs=True))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
