"""R-MLP: a part of the hidden channels reads the token together with what attention has just added to it.

    h_1 = act(U_1 x)                      D_ff - R channels, act is `model.activation`
    h_2 = act(U_2 (x + a y))              R channels, y the output of this block's attention, a = 1 at first
    out = W [w_1 sigmoid(s_1) h_1 | f w_2 sigmoid(s_2) h_2]

without biases. With `tie`, U_2 is the first R rows of the attention's output projection. With `mixer`, h_2 is
M h_2, M of R x R; with `token_gate` it is sigmoid(u . x + b) h_2, b = 2 at first, so that each token decides
how much it hears. w_1 and w_2 begin as the parts' shares of D_ff, s_1 at 2, s_2 at `skip`. f is 1, or 0 until
the second part is switched on: after `activation_steps` (`delayed`), or when the loss has calmed
(`variance-guided`); w_2 then begins at 0.1. No two tokens meet here.

mcgrof/AdamWPrune at 0700927: gpt2/ra.py (2025-11), as its text defines it; steps are optimizer steps, and the
warm-up of f, which that code set and did not read, is read. Mixer and gate are of its first form, of which
only that they were there is on record: where they act is our choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.context import Attended, AttentionContext, Cache
from torchstone.nn.gates import Gates
from torchstone.nn.mlp.activation import activate
from torchstone.nn.mlp.naive import naive_confidence, naive_rmlp
from torchstone.nn.mlp.record import Grown, MLPRecord
from torchstone.nn.switch import Delayed, VarianceGuided

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.config import MLPConfig
    from torchstone.nn.gpt import GPTConfig

SKIP_STANDARD = 2.0
WEIGHT_AT_ACTIVATION = 0.1


class RMLP(Gates, nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.activation = config.activation
        options, C, width, R = config.mlp, config.d_model, config.hidden_width, config.mlp.reciprocal_width
        if width <= R:
            raise ConfigError(
                f"model.mlp.reciprocal_width={R} leaves nothing of an MLP of {width} channels",
                next=f"choose less than {width}, or a larger d_ff",
            )
        if options.tie and R > C:
            raise ConfigError(
                f"model.mlp.reciprocal_width={R} is more than the {C} rows that model.mlp.tie=y can share",
                next=f"choose at most {C}, or model.mlp.tie=n",
            )
        self.num_heard = R
        self.standard = nn.Linear(C, width - R, bias=False)
        self.reciprocal = None if options.tie else nn.Linear(C, R, bias=False)
        self.mixer = nn.Linear(R, R, bias=False) if options.mixer else None
        self.token_gate = nn.Linear(C, 1) if options.token_gate else None
        self.out = nn.Linear(width, C, bias=False)
        self.residual_dropout = nn.Dropout(config.dropout)
        self.coupling = nn.Parameter(torch.tensor(1.0))
        self.standard_weight = nn.Parameter(torch.tensor(1 - R / width))
        at_once = options.activation == "at-once"
        self.reciprocal_weight = nn.Parameter(torch.tensor(R / width if at_once else WEIGHT_AT_ACTIVATION))
        self.standard_skip = nn.Parameter(torch.tensor(SKIP_STANDARD))
        self.reciprocal_skip = nn.Parameter(torch.tensor(options.skip))
        self.switch = _switch(options)
        self.initialise()

    def initialise(self) -> None:
        """The token's gate begins more open than not."""
        if self.token_gate is not None:
            nn.init.constant_(self.token_gate.bias, SKIP_STANDARD)

    def forward(
        self, x: Float[Tensor, "B T C"], attended: Attended, context: AttentionContext, past: Cache
    ) -> Grown:
        standard, reciprocal, coupling = self.gates().values()
        h = activate(self.activation, self.standard(x))
        second = F.linear(x + coupling * attended.out, self._second_map(attended))
        heard = activate(self.activation, second)
        if self.mixer is not None:
            heard = self.mixer(heard)
        if self.token_gate is not None:
            heard = torch.sigmoid(self.token_gate(x)) * heard
        return Grown(self.residual_dropout(self.out(torch.cat([standard * h, reciprocal * heard], dim=-1))))

    def _second_map(self, attended: Attended) -> Float[Tensor, "R C"]:
        if self.reciprocal is not None:
            return self.reciprocal.weight
        assert attended.projection is not None, "the block shows no projection"
        return attended.projection[: self.num_heard]

    def share(self) -> Float[Tensor, ""]:
        """By which the second part counts: f w_2 sigmoid(s_2)."""
        share = self.reciprocal_weight * torch.sigmoid(self.reciprocal_skip)
        return share if self.switch is None else self.switch() * share

    def confidence(self) -> Float[Tensor, ""]:
        return self.share() * self.coupling

    def gates(self) -> dict[str, Tensor]:
        standard = self.standard_weight * torch.sigmoid(self.standard_skip)
        return {"standard": standard, "reciprocal": self.share(), "coupling": self.coupling}


def _switch(options: MLPConfig) -> Delayed | VarianceGuided | None:
    if options.activation == "delayed":
        return Delayed(options.activation_steps)
    return VarianceGuided.of(options) if options.activation == "variance-guided" else None


def _parameters(config: GPTConfig, layer: int) -> int:
    C, R, options = config.d_model, config.mlp.reciprocal_width, config.mlp
    own = R**2 * options.mixer + (C + 1) * options.token_gate - R * C * options.tie
    return 2 * C * config.hidden_width + 5 + own


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    C, R, options = config.d_model, config.mlp.reciprocal_width, config.mlp
    return 2 * tokens * (2 * C * config.hidden_width + R**2 * options.mixer + C * options.token_gate)


RECORD = MLPRecord(
    name="r-mlp",
    summary="a part of the channels reads the token with what attention adds to it",
    equation="y = W (w_1 sigmoid(s_1) act(U_1 x), f w_2 sigmoid(s_2) act(U_2 (x + a y_attention)))",
    source="mcgrof/AdamWPrune at 0700927: gpt2/ra.py (2025-11), as it was meant",
    make=RMLP,
    naive=naive_rmlp,
    parameters=_parameters,
    flops=_flops,
    confidence=naive_confidence,
    reads_projection=lambda config: config.mlp.tie,
)
