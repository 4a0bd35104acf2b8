"""What is known about one attention mechanism: `AttentionRecord`, the entry of `attention/registry.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff
    from torchstone.nn.gpt import GPTConfig


class Attention(Protocol):
    """The module that a record makes. It may have a method `initialise()`, called after the model's own rule.

    Its last map, a linear one without which nothing leaves it, is `out`.

    `forward` leaves nothing on the module, multiplies each head's output by `sent.gate` where there is one,
    and fills `cache`, `latent` and `weights` of what it returns as the context and its record say.
    """

    def __call__(
        self, x: Float[Tensor, "B T C"], context: AttentionContext, sent: Handoff, past: Cache | None
    ) -> Attended: ...


def head_width(config: GPTConfig) -> int:
    return config.d_model // config.num_heads


def never(config: GPTConfig) -> bool:
    return False


def absent(config: GPTConfig) -> int | None:
    return None


@dataclass(frozen=True, kw_only=True)
class AttentionRecord:
    """One mechanism. Its functions take the model's configuration and the number of the block, from 0.

    `flops` counts the matrix products of one forward pass over `tokens` tokens as torch counts them: two per
    multiply-add, whole squares for causal scores, and padding of widths where the fast form pads.
    """

    name: str
    summary: str
    equation: str
    """What it computes, in one line; its file says it in full."""
    source: str
    """Paper or code."""
    make: Callable[[GPTConfig, int], Any]
    """(config, block) -> module, an `Attention`."""
    naive: Callable[[Any, Tensor, GPTConfig, Handoff], Attended]
    """The readable twin: (module, x of one sequence (T, C), config, sent) -> what it must give, without B."""
    parameters: Callable[[GPTConfig, int], int]
    """(config, block) -> parameters."""
    flops: Callable[[GPTConfig, int, int], int]
    """(config, block, tokens) -> FLOPs of one sequence."""
    cache: Callable[[GPTConfig, int, int], int]
    """(config, block, tokens) -> numbers kept for one sequence after so many tokens."""
    cache_is_limit: Callable[[GPTConfig], bool] = never
    """Whether `cache` tells the most that may be kept: how many there are depends on parameters."""
    materialises: Callable[[GPTConfig], bool] = never
    """Whether a (B, H, T, T) tensor is built, beyond what `keep_weights` asks for."""
    score_width: Callable[[GPTConfig], int] = head_width
    """Channels of a head that make a score: `keep_weights` multiplies them once more, T x T times."""
    rotary_width: Callable[[GPTConfig], int | None] = head_width
    """Width of what rotary positions turn; None: the mechanism takes no rotary positions."""
    qk_width: Callable[[GPTConfig], int | None] = absent
    """Width of the queries and keys that `qk_norm` norms; None: the mechanism takes no such norm."""
    latent_width: Callable[[GPTConfig], int | None] = absent
    """Width of the latent of the keys that an MLP may read and add to; None: there is none."""
    gives_share: Callable[[GPTConfig], bool] = never
    """It fills `Attended.mlp_share`."""
    hears_confidence: Callable[[GPTConfig], bool] = never
    """It reads `Handoff.confidence`."""
