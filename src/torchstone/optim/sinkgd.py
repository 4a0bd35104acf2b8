"""SinkGD: gradient descent without state on gradients whose rows and columns were brought to one size.

Published form (Scetbon, Ma, Gong & Meeds 2025, arXiv:2502.06742): for a gradient X of shape (m, n), L times

    X <- sqrt(n) diag(row L2 norms)^-1 X          then          X <- sqrt(m) X diag(column L2 norms)^-1

so that entries have an RMS of about 1. It is made for matrices of linear layers; the rest goes by AdamW, as
in the paper. A row or column of zeros stays zero.

`sinkgd_l1_2025` is what another code of 2025 had under this name, kept for comparison with its results: L1
norms, a tanh(X / tau) in every round, and the RMS of the gradient given back at the end; for all parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchstone.optim.adamw import adam_arguments
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import MATRIX
from torchstone.optim.matrix_split import MatrixSplit


class _Descent(torch.optim.Optimizer):
    """p <- p - lr (decay p + shaped gradient)."""

    def __init__(
        self, params: Any, lr: float, weight_decay: float = 0.0, iterations: int = 5, **more: float
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "iterations": iterations, **more})

    def shaped(self, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [each for each in group["params"] if each.grad is not None]
            if not learning:
                continue
            steps = [self.shaped(each.grad, group) for each in learning]
            torch._foreach_mul_(learning, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(learning, steps, alpha=-group["lr"])
        return loss


class SinkhornDescent(_Descent):
    """The published form, on matrices."""

    def shaped(self, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return balanced(gradient, group["iterations"])


class SinkGD(MatrixSplit):
    """`SinkhornDescent` on hidden matrices, AdamW on the rest."""

    matrix_class = SinkhornDescent


class SinkGDL1(_Descent):
    """The form of 2025 with L1 norms and tanh, on everything."""

    def shaped(self, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return balanced_l1(gradient, group["iterations"], group["tau"], group["eps"])


def balanced(gradient: Tensor, iterations: int) -> Tensor:
    """(m, n) with rows of L2 norm about sqrt(n) and, exactly, columns of sqrt(m).

    All rounds together multiply the gradient by a factor per row and one per column, so only those are
    iterated: two products with a vector in a round, instead of four passes over the matrix.
    """
    rows, columns = gradient.shape
    squares = (gradient / _nonzero(gradient.abs().amax())).square()  # small gradients would vanish
    by_row, by_column = gradient.new_ones(rows), gradient.new_ones(columns)
    for _ in range(iterations):
        by_row = (columns / _nonzero(squares @ by_column.square())).sqrt()
        by_column = (rows / _nonzero(by_row.square() @ squares)).sqrt()
    # The factors are those of the gradient divided by its largest entry.
    return gradient / _nonzero(gradient.abs().amax()) * by_row[:, None] * by_column


def _nonzero(sizes: Tensor) -> Tensor:
    return sizes.masked_fill(sizes == 0.0, 1.0)


def balanced_l1(gradient: Tensor, iterations: int, tau: float, eps: float) -> Tensor:
    """Any shape; `iterations` 0 only divides by the mean magnitude."""
    size = gradient.abs()
    if iterations == 0:
        return gradient / size.mean().clamp_min(eps)
    if gradient.ndim < 2:
        return torch.tanh(gradient / size.sum().clamp_min(eps) / tau)
    x = gradient
    for _ in range(iterations):
        x = x / x.abs().sum(-1, keepdim=True).clamp_min(eps)
        x = x / x.abs().sum(-2, keepdim=True).clamp_min(eps)
        x = torch.tanh(x / max(eps, tau))
    return x * (_rms(gradient) / _rms(x).clamp_min(eps))


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def sinkgd(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    return SinkGD(
        groups,
        matrix={"lr": config.learning_rate, "iterations": config.sinkgd_iterations},
        rest=adam_arguments([group for group in groups if not group[MATRIX]], config),
    )


def sinkgd_l1_2025(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    return SinkGDL1(
        groups,
        lr=config.learning_rate,
        iterations=config.sinkgd_iterations,
        tau=config.sinkgd_tau,
        eps=config.eps,
    )
