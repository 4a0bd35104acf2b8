"""What is known about one MLP: `MLPRecord`, the entry of `mlp/registry.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torchstone.nn.attention.context import Cache, Handoff

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from torchstone.nn.attention.context import Attended, AttentionContext
    from torchstone.nn.gpt import GPTConfig


class Grown(NamedTuple):
    """What an MLP gives to its block, and through it to the next block's attention."""

    out: Float[Tensor, "B T C"]
    """Goes to the residual stream."""
    sent: Handoff = Handoff()
    cache: Cache = ()


class MLP(Protocol):
    """The module that a record makes. It may have a method `initialise()`, called after the model's own rule.

    `forward` leaves nothing on the module and looks at no later token. Of `attended` it may read
    - `out`, this block's attention output before it is added to the residual stream (B, T, C);
    - `latent` (B, T, L), where the attention's record tells a `latent_width`, else None;
    - `mlp_share`, where the attention's record `gives_share`: by how much the block will scale `Grown.out`;
    - `weights` (B, T, S), the mean over heads without gradient, if the record's `reads_weights` says so; S
      counts cached tokens too;
    - `projection` (C, C), the weight of the attention's output projection, if `reads_projection` says so.
    What it wants to tell the next block's attention it returns as `Grown.sent`. An MLP that needs earlier
    tokens keeps tensors (B, X, S, Y) in `Grown.cache` when `context.keep_cache` asks for it, gets them back
    as `past` (empty at first), and tells their number as `MLPRecord.cached_tensors`.
    """

    def __call__(
        self, x: Float[Tensor, "B T C"], attended: Attended, context: AttentionContext, past: Cache
    ) -> Grown: ...


def _nothing(config: GPTConfig, layer: int, tokens: int) -> int:
    return 0


def _no_tensors(config: GPTConfig, layer: int) -> int:
    return 0


def _never(config: GPTConfig) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class MLPRecord:
    """One MLP. Its functions take the model's configuration and the number of the block, from 0.

    `flops` counts the matrix products of one forward pass over `tokens` tokens, two per multiply-add.
    """

    name: str
    summary: str
    equation: str
    """What it computes, in one line; its file says it in full."""
    source: str
    """Paper or code."""
    make: Callable[[GPTConfig, int], Any]
    """(config, block) -> module, an `MLP`."""
    naive: Callable[[Any, Tensor, Attended, GPTConfig], Grown]
    """The readable twin: (module, x of one sequence (T, C), attended without B, config) -> without B."""
    parameters: Callable[[GPTConfig, int], int]
    """(config, block) -> parameters."""
    flops: Callable[[GPTConfig, int, int], int]
    """(config, block, tokens) -> FLOPs of one sequence."""
    cache: Callable[[GPTConfig, int, int], int] = _nothing
    """(config, block, tokens) -> numbers kept for one sequence after so many tokens."""
    cached_tensors: Callable[[GPTConfig, int], int] = _no_tensors
    """(config, block) -> how many tensors it keeps in a cache."""
    reads_weights: Callable[[GPTConfig], bool] = _never
    """It reads the attention weights, which then are computed: a (B, T, S) tensor."""
    needs_latent: Callable[[GPTConfig], bool] = _never
    """It works only behind an attention with a latent."""
    reads_stream: bool = True
    """False: it does not look at `x`, and no norm stands before it."""
    reads_projection: Callable[[GPTConfig], bool] = _never
    """It reads `Attended.projection`."""
    confidence: Callable[[Any], Tensor] | None = None
    """The readable twin of `module.confidence() -> Float[Tensor, ""]`, which tells how much it hears of its
    attention beside the residual stream; None: it does not tell."""
    takes_gated: bool = False
    """It knows what to do with an activation that takes two channels for each that it gives."""
