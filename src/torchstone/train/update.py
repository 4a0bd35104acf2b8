"""How gradients become an update: measured, clipped, applied, or not applied because they are not finite.

    HostUpdate      the host reads loss and norm, then decides; on a CPU reading is free
    DeviceUpdate    the device decides by itself, the host learns of it when it looks; nobody waits
    ScaledUpdate    fp16: gradients carry a scale, and a step that overflows is lost while the scale shrinks

An update that is not finite changes nothing: neither weights nor the optimizer's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EPSILON = 1e-6
"""Keeps the clipping factor finite, as in torch.nn.utils.clip_grad_norm_."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an update saw, and whether it was made."""

    norm: Tensor
    """L2 norm of all gradients before clipping, 0-dim."""
    norms: Mapping[int, Tensor]
    """L2 norm of each gradient, by the parameter's place; those without a gradient are left out."""
    made: bool | None
    """None: the device knows, and `bad` tells."""
    bad: Tensor | None = None
    overflow: bool = False
    """Not made because the gradient scale was too large; nothing is wrong with the model."""
    scale: float | None = None
    """What fp16 gradients were multiplied with."""

    @property
    def was_made(self) -> bool:
        """Waits for the device where the host does not know yet."""
        return self.made if self.made is not None else not bool(self.bad)


class Update(Protocol):
    """The second half of a step."""

    gradients: Gradients
    waits: bool
    """The host learns at once what came of an update; otherwise when it looks."""

    def seed(self, loss_sum: Tensor, targets: int) -> Tensor:
        """What the backward pass begins with: the share of each target."""

    def apply(self, optimizer: torch.optim.Optimizer, losses: Sequence[Tensor]) -> Applied: ...


class Gradients:
    """The gradients of some parameters as one vector: its norm, and scaling it."""

    def __init__(self, parameters: Sequence[Tensor], max_norm: float | None) -> None:
        self.parameters = list(parameters)
        self.max_norm = max_norm
        self.preparations: list[Callable[[], None]] = []
        """Called in order when gradients are complete and have their true scale, before they are measured."""
        self.observers: list[Callable[[Tensor], None]] = []
        """Told the norm of all gradients, before they are clipped by it."""

    def take(self) -> tuple[list[Tensor], dict[int, Tensor], Tensor]:
        """Prepared and measured: see `measure`."""
        for each in self.preparations:
            each()
        measured = self.measure()
        for tell in self.observers:
            tell(measured[2])
        return measured

    def clear(self) -> None:
        """As `zero_grad`, without its bookkeeping, which costs more than a small step's update."""
        for each in self.parameters:
            each.grad = None

    def measure(self) -> tuple[list[Tensor], dict[int, Tensor], Tensor]:
        """Gradients, their norms by the parameter's place, and the norm of all of them."""
        held = [(place, each.grad) for place, each in enumerate(self.parameters) if each.grad is not None]
        gradients = [gradient for _, gradient in held]
        if not gradients:
            home = self.parameters[0].device if self.parameters else "cpu"
            return gradients, {}, torch.zeros((), device=home)
        norms = _norms(gradients)
        total = torch.linalg.vector_norm(torch.stack(norms))
        return gradients, {place: norm for (place, _), norm in zip(held, norms, strict=True)}, total


def _norms(gradients: list[Tensor]) -> list[Tensor]:
    first = gradients[0]
    if all(each.dtype == first.dtype and each.device == first.device for each in gradients):
        return list(torch._foreach_norm(gradients))
    home = first.device
    return [torch.linalg.vector_norm(each).to(home, torch.float32) for each in gradients]


def clip_factor(norm: float, max_norm: float | None) -> float:
    """What gradients of this norm are multiplied with."""
    return 1.0 if max_norm is None else min(1.0, max_norm / (norm + EPSILON))


class HostUpdate:
    """Reads loss and norm before it applies anything."""

    waits = True

    def __init__(self, gradients: Gradients) -> None:
        self.gradients = gradients

    def seed(self, loss_sum: Tensor, targets: int) -> Tensor:
        return torch.full_like(loss_sum, 1.0 / max(targets, 1))

    def apply(self, optimizer: torch.optim.Optimizer, losses: Sequence[Tensor]) -> Applied:
        gradients, norms, norm = self.gradients.take()
        length = norm.item()
        if not math.isfinite(length) or not all(math.isfinite(each.item()) for each in losses):
            return Applied(norm, norms, made=False)
        factor = clip_factor(length, self.gradients.max_norm)
        if factor < 1.0:
            torch._foreach_mul_(gradients, factor)
        optimizer.step()
        return Applied(norm, norms, made=True)


class DeviceUpdate:
    """Leaves the decision to the device, through the switch that torch's fused optimizers have for it.

    `sticky`: after the first bad step none is applied, so that the weights are still those before it when
    the host looks.
    """

    waits = False

    def __init__(self, gradients: Gradients, device: torch.device, *, sticky: bool) -> None:
        self.gradients = gradients
        self.sticky = sticky
        self.bad = torch.zeros((), device=device)

    @staticmethod
    def suits(optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer obeys `found_inf`."""
        return bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def seed(self, loss_sum: Tensor, targets: int) -> Tensor:
        return torch.full_like(loss_sum, 1.0 / max(targets, 1))

    def apply(self, optimizer: torch.optim.Optimizer, losses: Sequence[Tensor]) -> Applied:
        gradients, norms, norm = self.gradients.take()
        broken = ~torch.isfinite(torch.stack([norm.float(), *(each.float() for each in losses)])).all()
        self.bad = torch.maximum(self.bad, broken.float()) if self.sticky else broken.float()
        if self.gradients.max_norm is not None and gradients:
            factor = torch.clamp(self.gradients.max_norm / (norm + EPSILON), max=1.0)
            torch._foreach_mul_(gradients, factor)
        optimizer.grad_scale, optimizer.found_inf = None, self.bad  # type: ignore[attr-defined]
        optimizer.step()
        return Applied(norm, norms, made=None, bad=self.bad)

    def forgive(self) -> None:
        """Apply updates again."""
        self.bad = torch.zeros_like(self.bad)


class ScaledUpdate:
    """fp16: small gradients are lifted over its smallest number, and brought back before they are used.

    Micikevicius et al. 2017, arXiv:1710.03740; the scale is torch's GradScaler.
    """

    waits = True

    def __init__(self, gradients: Gradients, device: torch.device) -> None:
        self.gradients = gradients
        self.scaler = torch.amp.GradScaler(device.type)

    def seed(self, loss_sum: Tensor, targets: int) -> Tensor:
        share = torch.full_like(loss_sum, 1.0 / max(targets, 1))
        scaled: Tensor = self.scaler.scale(share)
        return scaled

    def apply(self, optimizer: torch.optim.Optimizer, losses: Sequence[Tensor]) -> Applied:
        self.scaler.unscale_(optimizer)
        gradients, norms, norm = self.gradients.take()
        length = norm.item()
        sound = all(math.isfinite(each.item()) for each in losses)
        made = sound and math.isfinite(length)
        if made and (factor := clip_factor(length, self.gradients.max_norm)) < 1.0:
            torch._foreach_mul_(gradients, factor)
        if sound:
            self.scaler.step(optimizer)  # skips by itself what overflowed
        self.scaler.update()
        scale = self.scaler.get_scale()
        return Applied(norm, norms, made=made, overflow=sound and not made, scale=scale)
