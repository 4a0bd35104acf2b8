"""How many of the places that are not recent each head of `kv-pruned` keeps: k_h, a real number.

    fixed          k_h = keep
    learned        k_h = keep sigmoid(r_h),  r_h = 2 at first
    gate-informed  k_h = keep / (1 + beta c), at least a tenth of keep;  c is how much the MLP of the block
                   hears its attention (`MLPRecord.confidence`): what it takes over need not be kept

A place of rank r (0: the most important) counts by the share min(1, max(0, k_h - r)) of its weight. So the
one at the border counts in part, which is how the output depends on k_h: the gradient is that of the function
itself, in training as in decoding, and nothing is estimated. mcgrof/AdamWPrune: gpt2/ra.py (2025-11), whose
whole number passed no gradient.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.context import Handoff
from torchstone.nn.gates import Gates

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig

START = 2.0
SMALLEST = 0.1


class Budget(Gates, nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        options = config.attention
        self.keep, self.beta = options.keep, options.beta
        self.is_informed = options.budget == "gate-informed"
        learned = options.budget == "learned"
        self.logit = nn.Parameter(torch.full((config.num_heads,), START)) if learned else None
        if self.is_informed and config.mechanisms[1].confidence is None:
            raise ConfigError(
                "model.attention.budget=gate-informed has nobody to inform it",
                why=f"MLP {config.mechanisms[1].name} does not hear its attention",
                next="choose model.mlp.name=r-mlp, or another budget",
            )

    def forward(self, sent: Handoff) -> Float[Tensor, "#H"] | None:
        """None: all `keep`, each by its whole weight."""
        if self.logit is not None:
            return self.gates()["kept"]
        if self.is_informed and sent.confidence is not None:
            part = 1 / (1 + self.beta * sent.confidence.clamp(min=0))
            return self.keep * part.clamp(min=SMALLEST)[None]
        return None

    def gates(self) -> dict[str, Tensor]:
        """Places that are kept."""
        return {} if self.logit is None else {"kept": self.keep * torch.sigmoid(self.logit)}

    def of_ranks(self, budget: Float[Tensor, "#H"] | None, device: torch.device) -> Float[Tensor, "#H r"]:
        """By which part of its weight the place of each rank counts; r = keep."""
        if budget is None:
            return torch.ones(1, self.keep, device=device)
        return (budget[:, None] - torch.arange(self.keep, device=device)).clamp(0, 1)

    def most(self, budget: Float[Tensor, "#H"] | None) -> int:
        """The places that a cache has to hold beside the recent ones."""
        return self.keep if budget is None else math.ceil(float(budget.detach().max()))
