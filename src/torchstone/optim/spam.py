"""Spike-aware Adam: gradients clipped by element against their own history, moments reset now and then.

    SPAM        the paper's (Huang et al. 2025, arXiv:2501.06842), algorithm 1 with dense moments
    AdamWSPAM   after the one of the AdamWPrune lab: AdamW, and moments damped when the gradient norm spikes

Both count optimizer steps in one counter. A reset of AdamWSPAM forgets the step count of the bias
correction and AMSGrad's maximum too, and its clipping compares with the bias-corrected second moment: right
after a reset the plain one is a thousandth of what it estimates, and would clip ordinary gradients for
hundreds of steps. Coordinates without a history are not clipped, for nothing is known of them.

Clipping belongs before the gradients are measured: `prepare_gradients` does it, and the engine calls that.
In a loop that does not know it, `step` does it first. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd as descend

from torchstone._errors import ConfigError, UsageError
from torchstone.optim.adamw import adam_arguments, has_fused
from torchstone.optim.bare_step import bare_step
from torchstone.optim.config import OptimConfig
from torchstone.optim.element_clip import clip_by_history

HISTORY = 100
"""Gradient norms that a spike is judged by."""
ENOUGH = 10
"""Norms before there is a judgement."""
FLATTEST = 0.01
"""Deviations are taken for at least this share of the mean: norms that hardly change make no spikes."""
GRACE = 20
"""Steps after a reset in which SPAM does not clip, as in the code of its authors."""
ALL = "all"
"""Key of the state that belongs to no single parameter."""


class ResettingAdamW(torch.optim.AdamW):
    """AdamW whose moments are cleared every `interval` steps, with a warm-up after each clearing."""

    state: Any
    """By parameter, and under `ALL`."""
    rate_taken: float
    """Learning rate of the last step in the first group, its own warm-up included."""

    def __init__(self, params: Any, *, theta: float, interval: int, warmup: int, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        # Whether a step was made must be known here, so a device cannot decide it alone.
        self._step_supports_amp_scaling = False
        for group in self.param_groups:
            group.update(theta=theta, interval=interval, warmup=warmup)
        self.state[ALL] = {"step": 0}
        self._prepared = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._step_supports_amp_scaling = False
        self._prepared = False
        kept = self.state.get(ALL)
        if kept is None:
            raise UsageError(
                f"this state of an optimizer is none of {type(self).__name__}",
                why="it lacks the count of steps since the last reset",
            )
        self.state[ALL] = {
            name: each.clone() if isinstance(each, Tensor) else each for name, each in kept.items()
        }

    @property
    def since_reset(self) -> int:
        """Steps from the last clearing to this step, or from the beginning, which counts from 1."""
        return self._number % int(self.param_groups[0]["interval"])

    @property
    def _number(self) -> int:
        """Of the step that comes, from 1."""
        return int(self.state[ALL]["step"]) + 1

    @property
    def _was_reset(self) -> bool:
        """Whether the moments have been cleared, or are in this step."""
        return self._number >= int(self.param_groups[0]["interval"])

    @torch.no_grad()
    def prepare_gradients(self) -> None:
        """Clip by element. Once for each step, before clipping by norm; changes gradients only."""
        if self.since_reset:  # else the history is about to be cleared
            self._clip()
        self._prepared = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._prepared:
            self.prepare_gradients()
        if self.since_reset == 0:
            self._reset()
        self._before_step()
        rates = [group["lr"] for group in self.param_groups]
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate * self._warm()
        self.rate_taken = float(self.param_groups[0]["lr"])
        bare_step(self, torch.optim.AdamW)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        self.state[ALL]["step"] += 1
        self._prepared = False
        return loss

    def _learning(self) -> Iterator[tuple[dict[str, Any], list[Tensor], list[dict[str, Any]]]]:
        """(group, gradients, states) of the parameters that have both, and elements."""
        for group in self.param_groups:
            held = [
                each
                for each in group["params"]
                if each.grad is not None and each.numel() and self.state.get(each)
            ]
            yield group, [each.grad for each in held], [self.state[each] for each in held]

    def _clip(self) -> None:
        raise NotImplementedError

    def _before_step(self) -> None:
        """What else the gradients of this step lead to."""

    def _warm(self) -> float:
        """Multiplier of the learning rate in this step."""
        raise NotImplementedError

    def _reset(self) -> None:
        raise NotImplementedError

    def _clear(self, *names: str) -> None:
        kept = [
            self.state[each] for group in self.param_groups for each in group["params"] if each in self.state
        ]
        if kept:
            torch._foreach_zero_([state[name] for state in kept for name in names if name in state])


class SPAM(ResettingAdamW):
    """The paper's. Bias correction counts all steps, as the authors' code does."""

    def _clip(self) -> None:
        if self.since_reset < GRACE:
            return
        for group, gradients, states in self._learning():
            if gradients and group["theta"]:
                thetas = torch.full((len(gradients),), group["theta"], device=gradients[0].device)
                clip_by_history(gradients, [state["exp_avg_sq"] for state in states], thetas)

    def _warm(self) -> float:
        """0.01 in the first step after a reset, rising with a cosine."""
        warmup, since = self.param_groups[0]["warmup"], self.since_reset
        if not self._was_reset or since >= warmup:
            return 1.0
        return 1.0 - 0.99 * 0.5 * (1.0 + math.cos(math.pi * since / (warmup + 1)))

    def _reset(self) -> None:
        self._clear("exp_avg", "exp_avg_sq")


class AdamWSPAM(ResettingAdamW):
    """The lab's intent: clip by element, damp both moments at a spike of the norm, reset and warm up."""

    _norm: Tensor | None = None
    """Of this step's gradients, where it was told."""

    def __init__(self, params: Any, *, spike: float, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        for group in self.param_groups:
            group["spike"] = spike
        device = self.param_groups[0]["params"][0].device
        self.state[ALL] |= {
            "norms": torch.zeros(HISTORY, device=device),
            "seen": torch.zeros((), device=device),
        }

    def observe_norm(self, norm: Tensor) -> None:
        """Of all gradients of this step, clipped by element and not yet by norm. A step that was not told
        measures for itself."""
        self._norm = norm

    def _clip(self) -> None:
        for group, gradients, states in self._learning():
            if gradients and group["theta"]:
                steps = torch.stack([state["step"] for state in states]).to(gradients[0].device)
                # 1 - beta2^t, exact also where t is small and float32
                unbiased = -torch.expm1(steps * math.log(max(group["betas"][1], 1e-300)))
                # No step since the reset: v is zero then, and must not be divided by zero.
                thetas = group["theta"] / unbiased.clamp_min(1e-12)
                clip_by_history(gradients, [state["exp_avg_sq"] for state in states], thetas)

    def _before_step(self) -> None:
        """Where this norm stands out of the last ones: halve m, and take a tenth off v."""
        norm = self._measured() if self._norm is None else self._norm.float()
        self._norm = None
        if norm is None:
            return
        kept = self.state[ALL]
        norms, seen = (kept[name].to(norm.device) for name in ("norms", "seen"))
        is_spike = z_score(norm, norms, seen) > self.param_groups[0]["spike"]
        held = [state for _, _, states in self._learning() for state in states]
        damp([state["exp_avg"] for state in held], 0.5, is_spike)
        damp([state["exp_avg_sq"] for state in held], 0.1, is_spike)
        kept["norms"] = torch.cat([norm.view(1), norms.narrow(0, 0, HISTORY - 1)])  # newest first
        kept["seen"] = (seen + 1.0).clamp(max=float(HISTORY))

    def _measured(self) -> Tensor | None:
        held = [each.grad for group in self.param_groups for each in group["params"] if each.grad is not None]
        return torch.stack([each.float() for each in torch._foreach_norm(held)]).norm() if held else None

    def _warm(self) -> float:
        """0.001 in the first step after a reset, rising with a cosine."""
        warmup, since = self.param_groups[0]["warmup"], self.since_reset
        if not self._was_reset or since >= warmup:
            return 1.0
        return max(1e-3, 0.5 * (1.0 - math.cos(math.pi * since / warmup)))

    def _reset(self) -> None:
        self._clear("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")


def z_score(norm: Tensor, norms: Tensor, seen: Tensor) -> Tensor:
    """Standard deviations by which `norm` exceeds the newest `seen` of `norms`; 0 while they are too few."""
    known = (torch.arange(len(norms), device=norms.device) < seen).to(norms.dtype)
    count = seen.clamp_min(1.0)
    mean = (norms * known).sum() / count
    deviation = (((norms - mean).square() * known).sum() / count).sqrt()
    z = (norm - mean) / deviation.clamp_min(FLATTEST * mean)
    return torch.where(seen >= ENOUGH, z, torch.zeros_like(z))


def damp(tensors: list[Tensor], share: float, whether: Tensor) -> None:
    """x <- (1 - share) x, if `whether` says so, which the host does not know; nothing is read if not.

    torch's fused kernels have such a switch: descent on x along x, where nothing "overflowed".
    """
    if not tensors:
        return
    if all(has_fused(each.device) for each in tensors):
        descend(
            tensors,
            tensors,
            [None] * len(tensors),
            fused=True,
            found_inf=(~whether).float(),
            lr=share,
            weight_decay=0.0,
            momentum=0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
    else:
        torch._foreach_mul_(tensors, 1.0 - share * whether.float())


def spam(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    return SPAM(groups, **_resets(config, 5000.0, 500, 150), **adam_arguments(groups, config))


def adamwspam(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    return AdamWSPAM(
        groups,
        spike=config.spam_spike,
        amsgrad=config.amsgrad,
        **_resets(config, 50.0, 1000, 100),
        **adam_arguments(groups, config),
    )


def _resets(config: OptimConfig, theta: float, interval: int, warmup: int) -> dict[str, Any]:
    """The knobs, with the defaults of the algorithm where they are None."""
    chosen = {"theta": config.spam_theta, "interval": config.spam_interval, "warmup": config.spam_warmup}
    defaults = {"theta": theta, "interval": interval, "warmup": warmup}
    resets = {name: defaults[name] if value is None else value for name, value in chosen.items()}
    if resets["warmup"] >= resets["interval"]:
        raise ConfigError(
            f"a warm-up of {resets['warmup']} steps never ends when the moments are reset every "
            f"{resets['interval']}",
            next="set optim.spam_warmup below optim.spam_interval",
        )
    return resets
