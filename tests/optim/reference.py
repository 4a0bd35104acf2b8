"""Every optimizer once more, for reading: float64, one tensor after the other, formulas as in the sources.

reference = REFERENCES[name](config)
reference.update(parameters)         # a list of `Parameter`, changed in place; once per step
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchstone.optim.config import OptimConfig


@dataclass
class Parameter:
    """A value, its gradient in this step, and what an optimizer remembers of it."""

    value: Tensor
    decay: float
    is_matrix: bool
    """2-D, no embedding, not the output layer."""
    gradient: Tensor = field(default_factory=lambda: torch.zeros(()))
    memory: dict[str, Tensor] = field(default_factory=dict)

    def recall(self, name: str) -> Tensor:
        return self.memory.setdefault(name, torch.zeros_like(self.value))


class Reference:
    def __init__(self, config: OptimConfig) -> None:
        self.c = config
        self.t = 0

    def update(self, parameters: list[Parameter]) -> None:
        self.t += 1
        for each in parameters:
            self.one(each)

    def one(self, p: Parameter) -> None:
        raise NotImplementedError

    def adamw(self, p: Parameter, *, amsgrad: bool = False, rate: float = 1.0, t: int | None = None) -> None:
        """Algorithm 2 of arXiv:1711.05101; AMSGrad as torch has it (the maximum of the plain v)."""
        c, t, g = self.c, self.t if t is None else t, p.gradient
        lr = rate * c.learning_rate
        p.value -= lr * p.decay * p.value
        m, v = p.recall("m"), p.recall("v")
        m += (1 - c.beta1) * (g - m)
        v += (1 - c.beta2) * (g * g - v)
        if amsgrad:
            p.memory["max"] = torch.maximum(p.recall("max"), v)
            v = p.memory["max"]
        root = (v / (1 - c.beta2**t)).sqrt()
        p.value -= lr * (m / (1 - c.beta1**t)) / (root + c.eps)


class AdamW(Reference):
    def one(self, p: Parameter) -> None:
        self.adamw(p)


class AdamWAdv(Reference):
    def one(self, p: Parameter) -> None:
        self.adamw(p, amsgrad=True)


class Adam(Reference):
    def one(self, p: Parameter) -> None:
        p.gradient = p.gradient + p.decay * p.value
        decay, p.decay = p.decay, 0.0
        self.adamw(p)
        p.decay = decay


class SGD(Reference):
    def one(self, p: Parameter) -> None:
        g = p.gradient + p.decay * p.value
        buffer = p.recall("buffer")
        buffer *= self.c.momentum
        buffer += g
        p.value -= self.c.learning_rate * (g + self.c.momentum * buffer if self.c.nesterov else buffer)


class SinkGD(Reference):
    def one(self, p: Parameter) -> None:
        if not p.is_matrix:
            self.adamw(p)
            return
        x, (m, n) = p.gradient, p.gradient.shape
        for _ in range(self.c.sinkgd_iterations):
            for row in range(m):
                x = x.clone()
                if (norm := x[row].norm()) > 0:
                    x[row] *= math.sqrt(n) / norm
            for column in range(n):
                if (norm := x[:, column].norm()) > 0:
                    x[:, column] *= math.sqrt(m) / norm
        lr = self.c.learning_rate
        p.value -= lr * p.decay * p.value + lr * x


class SinkGDL1(Reference):
    def one(self, p: Parameter) -> None:
        c, g = self.c, p.gradient
        if g.ndim < 2:
            x = torch.tanh(g / g.abs().sum() / c.sinkgd_tau)
        else:
            x = g
            for _ in range(c.sinkgd_iterations):
                x = x / x.abs().sum(-1, keepdim=True).clamp_min(c.eps)
                x = x / x.abs().sum(-2, keepdim=True).clamp_min(c.eps)
                x = torch.tanh(x / c.sinkgd_tau)
            x = x * (g.pow(2).mean().sqrt() / x.pow(2).mean().sqrt())
        p.value -= c.learning_rate * (p.decay * p.value + x)


class Muon(Reference):
    def one(self, p: Parameter) -> None:
        if not p.is_matrix:
            self.adamw(p)
            return
        c, m = self.c, p.recall("m")
        m += (1 - c.muon_beta) * (p.gradient - m)
        x = c.muon_beta * m + (1 - c.muon_beta) * p.gradient
        flat = x.shape[0] <= x.shape[1]
        x = x if flat else x.T
        x = x / x.norm()
        for _ in range(c.muon_steps):
            gram = x @ x.T
            x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
        x = x if flat else x.T
        if c.muon_adjust == "match_rms_adamw":
            size = 0.2 * math.sqrt(max(x.shape))
        else:
            size = math.sqrt(max(1.0, x.shape[0] / x.shape[1]))
        p.value -= c.learning_rate * (p.decay * p.value + size * x)


class SPAM(Reference):
    """Algorithm 1 of arXiv:2501.06842 with the grace of 20 steps and the warm-up of its code."""

    interval, warmup, theta = 500, 150, 5000.0

    def __init__(self, config: OptimConfig) -> None:
        super().__init__(config)
        self.interval = config.spam_interval or self.interval
        self.warmup = self.warmup if config.spam_warmup is None else config.spam_warmup
        self.theta = self.theta if config.spam_theta is None else config.spam_theta

    def one(self, p: Parameter) -> None:
        k = self.t % self.interval
        if k == 0:
            p.memory.clear()
        v = p.recall("v")
        if k >= 20:
            limit = (self.theta * v).sqrt()
            p.gradient = torch.where(
                (p.gradient**2 > self.theta * v) & (v > 0), p.gradient.sign() * limit, p.gradient
            )
        rate = 1.0
        if self.t >= self.interval and k < self.warmup:
            rate = 1 - 0.99 * (1 + math.cos(math.pi * k / (self.warmup + 1))) / 2
        self.adamw(p, rate=rate)


class AdamWSPAM(SPAM):
    interval, warmup, theta = 1000, 100, 50.0

    def __init__(self, config: OptimConfig) -> None:
        super().__init__(config)
        self.norms: list[float] = []
        self.since = 0
        """Steps in the moments."""

    def update(self, parameters: list[Parameter]) -> None:
        self.t += 1
        k, after_reset = self.t % self.interval, self.t >= self.interval
        if k == 0:
            self.since = 0
            for p in parameters:
                p.memory.clear()
        for p in parameters:
            if self.since:
                v = p.recall("v")
                limit = (self.theta * v / (1 - self.c.beta2**self.since)).sqrt()
                clipped = p.gradient.sign() * torch.minimum(p.gradient.abs(), limit)
                p.gradient = torch.where(v > 0, clipped, p.gradient)
        norm = math.sqrt(sum(float(p.gradient.pow(2).sum()) for p in parameters))
        if self.is_spike(norm):
            for p in parameters:
                p.recall("m").mul_(0.5)
                p.recall("v").mul_(0.9)
        self.norms = [*self.norms, norm][-100:]
        rate = 1.0
        if after_reset and k < self.warmup:
            rate = max(1e-3, (1 - math.cos(math.pi * k / self.warmup)) / 2)
        self.since += 1
        for p in parameters:
            self.adamw(p, rate=rate, t=self.since, amsgrad=self.c.amsgrad)

    def is_spike(self, norm: float) -> bool:
        if len(self.norms) < 10:
            return False
        mean = sum(self.norms) / len(self.norms)
        deviation = math.sqrt(sum((each - mean) ** 2 for each in self.norms) / len(self.norms))
        return (norm - mean) / max(deviation, 0.01 * mean) > self.c.spam_spike


REFERENCES: dict[str, Callable[[OptimConfig], Reference]] = {
    "adamw": AdamW,
    "adam": Adam,
    "sgd": SGD,
    "adamwadv": AdamWAdv,
    "adamwspam": AdamWSPAM,
    "spam": SPAM,
    "sinkgd": SinkGD,
    "sinkgd_l1_2025": SinkGDL1,
    "muon": Muon,
    "adamwprune": AdamW,
}
