"""The reference decoder: a GPT-2 style language model in plain torch, honest in every law.

    model = GPT(GPTConfig(vocab_size=4096, max_seq_len=256, d_model=128, num_layers=4, num_heads=4))
    logits = model(input_ids).logits                              # (B, T, V)

Architecture and initialisation after Radford et al. 2019 ("Language Models are Unsupervised Multitask
Learners") and its published code, `openai/gpt-2: src/model.py`: pre-norm blocks, learned positions, tied
head, N(0, 0.02) weights with the residual projections scaled by 1/sqrt(2 * blocks). Beside the faithful form
there are rotary positions, RMSNorm, normed queries and keys, other activations, projections without biases.
Attention and MLP are chosen by name from their registries (`attention/registry.py`, `mlp/registry.py`).
Losses and sampling do not live here: labels are the trainer's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError, UsageError
from torchstone._registry import suggest
from torchstone.nn.attention.context import (
    Attended,
    AttentionContext,
    Cache,
    Handoff,
    causal_mask,
)
from torchstone.nn.attention.record import absent
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import AttentionConfig, MLPConfig, require_effect
from torchstone.nn.mlp.activation import ACTIVATIONS, GATED
from torchstone.nn.mlp.registry import MLPS
from torchstone.nn.norms import EPS, make_norm
from torchstone.nn.rotary import rotation
from torchstone.nn.sizing import width_for_ratio

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from torchstone.nn.attention.record import AttentionRecord
    from torchstone.nn.mlp.record import MLPRecord

INIT_STD = 0.02
POSITIONS = ("learned", "rope")
GATED_MULTIPLE = 8
"""What the width of a gated MLP is a multiple of, where nobody said it."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Sizes of a `GPT`; the defaults are GPT-2 small."""

    vocab_size: int = 50_257
    """Ids that are taken and spoken, tokens."""
    vocab_multiple: int = 1
    """The embedding and the head have a multiple of it as rows; those beyond vocab_size get no logits."""
    max_seq_len: int = 1024
    """Longest sequence, tokens."""
    d_model: int = 768
    """Width of the residual stream, channels."""
    num_layers: int = 12
    """Blocks."""
    num_heads: int = 12
    """Attention heads per block; each is d_model / num_heads wide."""
    d_ff: int | None = None
    """Hidden width of the MLP, channels; None: what `mlp.ratio` asks for, or four times d_model, or where the
    activation is gated two thirds of that, so that its three matrices have the parameters of two."""
    dropout: float = 0.0
    """Probability, on embeddings, attention weights and residual branches."""
    norm: str = "layernorm"
    """layernorm or rmsnorm."""
    norm_eps: float = EPS
    """Added to the variance in every norm."""
    activation: str = "gelu-tanh"
    """What bends the hidden channels: gelu, gelu-tanh, relu2 or swiglu (`mlp/activation.py`)."""
    qk_norm: bool = False
    """An RMSNorm on the queries and on the keys of each head."""
    bias: bool = True
    """Projections and layer norms of the blocks have biases; the gates of mechanisms always keep theirs."""
    positions: str = "learned"
    """learned (a table of max_seq_len rows) or rope (rotary, no parameters)."""
    tie_word_embeddings: bool = True
    """The output layer shares the token embedding."""
    attention: AttentionConfig = AttentionConfig(name="sdpa")  # noqa: RUF009
    """The blocks' attention, by its name in the registry, with its options."""
    mlp: MLPConfig = MLPConfig(name="dense")  # noqa: RUF009
    """The blocks' MLP, likewise."""

    def __post_init__(self) -> None:
        if self.d_ff is not None and self.mlp.ratio is not None:
            raise ConfigError(
                f"d_ff={self.d_ff} and mlp.ratio={self.mlp.ratio} both tell the width of the MLP",
                next="leave one of them out",
            )
        for name in (
            "vocab_size",
            "vocab_multiple",
            "max_seq_len",
            "d_model",
            "num_layers",
            "num_heads",
            "hidden_width",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} is too small", why="a size is at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout={self.dropout} is no probability below 1")
        if self.norm_eps <= 0:
            raise ConfigError(f"norm_eps={self.norm_eps} is no number above 0")
        for name, legal in (("positions", POSITIONS), ("activation", ACTIVATIONS)):
            if (chosen := getattr(self, name)) not in legal:
                raise ConfigError(
                    f"there is no {name} named {chosen!r}",
                    why=suggest(chosen, legal),
                    next=f"choose one of: {', '.join(legal)}",
                )
        require_effect(self.attention, self.mlp)
        attention, mlp = self.mechanisms
        width = attention.rotary_width(self)
        if self.positions == "rope" and (width is None or width % 2):
            raise ConfigError(
                f"rope turns pairs of channels, and attention {attention.name} has none"
                if width is None
                else f"rope needs an even head width, not d_model={self.d_model} / num_heads={self.num_heads}"
                if width == self.d_model // self.num_heads
                else f"rope needs an even width, and attention {attention.name} turns vectors of {width}"
            )
        if self.qk_norm and attention.qk_width(self) is None:
            able = [each.name for each in ATTENTIONS if each.qk_width is not absent]
            raise ConfigError(
                f"attention {attention.name}, as it is configured, takes no norm on its queries and keys",
                next=f"leave qk_norm out, or choose model.attention.name among {', '.join(able)}",
            )
        if self.activation in GATED and not mlp.takes_gated:
            raise ConfigError(
                f"MLP {mlp.name} has no second half of hidden channels, as {self.activation} needs it",
                next=f"choose model.activation among {', '.join(x for x in ACTIVATIONS if x not in GATED)}",
            )
        if mlp.needs_latent(self) and attention.latent_width(self) is None:
            latent = [each.name for each in ATTENTIONS if each.latent_width(self) is not None]
            raise ConfigError(
                f"MLP {mlp.name} reads the latent of the keys, and attention {attention.name} has none",
                next=f"choose model.attention.name among {', '.join(latent) or 'those with a latent'}",
            )

    @cached_property
    def hidden_width(self) -> int:
        if self.mlp.ratio is not None:
            return width_for_ratio(self)
        if self.d_ff is not None:
            return self.d_ff
        if self.activation in GATED:
            return max(1, round(8 * self.d_model / 3 / GATED_MULTIPLE)) * GATED_MULTIPLE
        return 4 * self.d_model

    @property
    def num_rows(self) -> int:
        """Rows of the embedding and of the head."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def mechanisms(self) -> tuple[AttentionRecord, MLPRecord]:
        """The records of the attention and the MLP that were chosen."""
        return ATTENTIONS.get(self.attention.name or "sdpa"), MLPS.get(self.mlp.name or "dense")


@dataclass
class GPTOutput:
    """`past_key_values` holds the cache of each block where `use_cache` asked: (keys, values) for sdpa."""

    logits: Float[Tensor, "B T V"]
    past_key_values: tuple[Cache, ...] | None = None


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream.

    What the block before sent comes in as an argument, and what this one sends goes out as a result.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        attention, mlp = config.mechanisms
        self.attention_norm = norm_of(config)
        self.attention = attention.make(config, layer)
        self.mlp_norm = norm_of(config) if mlp.reads_stream else nn.Identity()
        self.mlp = mlp.make(config, layer)
        self.num_mlp_tensors = mlp.cached_tensors(config, layer)
        self.tells_confidence = attention.hears_confidence(config)
        self.shows_projection = mlp.reads_projection(config)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> tuple[Float[Tensor, "B T C"], Handoff, Cache]:
        attention_past, mlp_past = self._split(past)
        attended = self.attend(x, context, sent, attention_past)
        x = x + attended.out
        grown = self.mlp(self.mlp_norm(x), attended, context, mlp_past)
        added = grown.out if attended.mlp_share is None else attended.mlp_share * grown.out
        return x + added, grown.sent, (*attended.cache, *grown.cache)

    def attend(
        self, x: Float[Tensor, "B T C"], context: AttentionContext, sent: Handoff, past: Cache | None
    ) -> Attended:
        """What its attention gives, which goes to the stream and to the MLP."""
        if self.tells_confidence:
            sent = sent._replace(confidence=self.mlp.confidence())
        attended: Attended = self.attention(self.attention_norm(x), context, sent, past)
        if self.shows_projection:
            attended = attended._replace(projection=self.attention.out.weight)
        return attended

    def _split(self, past: Cache | None) -> tuple[Cache | None, Cache]:
        if past is None:
            return None, ()
        border = len(past) - self.num_mlp_tensors
        return past[:border], past[border:]


class GPT(nn.Module):
    """Token ids to next-token logits, never looking ahead."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        attention, mlp = config.mechanisms
        self.rotary_width = attention.rotary_width(config) if config.positions == "rope" else None
        self.keep_weights = mlp.reads_weights(config)
        self.token_embedding = nn.Embedding(config.num_rows, config.d_model)
        self.position_embedding = (
            nn.Embedding(config.max_seq_len, config.d_model) if config.positions == "learned" else None
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = norm_of(config)
        self.head = nn.Linear(config.d_model, config.num_rows, bias=False)
        self._initialise()
        if config.tie_word_embeddings:
            self.head.weight = self.token_embedding.weight

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"] | Bool[Tensor, "B 1 T S"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        use_cache: bool = False,
    ) -> GPTOutput:
        """`attention_mask` is 1 for real tokens and covers the cached ones too (S = cached + T).

        With four dimensions it says for each token which others it may see; later ones stay hidden.
        """
        num_cached = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        self._require_fit(input_ids, attention_mask, num_cached)
        if position_ids is None:
            position_ids = _positions(input_ids, attention_mask, num_cached)
        context = self._context(input_ids, attention_mask, position_ids, num_cached, use_cache)

        x = self._embedded(input_ids, position_ids)
        caches: list[Cache] = []
        sent = Handoff()  # the first block gets none
        for index, block in enumerate(self.blocks):
            x, sent, cache = block(
                x, context, sent, None if past_key_values is None else past_key_values[index]
            )
            caches.append(cache)
        logits = self.head(self.final_norm(x))
        if self.config.num_rows > self.config.vocab_size:
            logits = logits[..., : self.config.vocab_size]
        return GPTOutput(logits=logits, past_key_values=tuple(caches) if use_cache else None)

    @torch.no_grad()
    def attended(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"] | Bool[Tensor, "B 1 T T"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
    ) -> Iterator[Attended]:
        """What the attention of each block gives, with its `scores`: a look inside, which no training needs.

        Each attention is computed twice, once to be looked at and once inside its block.
        """
        self._require_fit(input_ids, attention_mask, 0)
        if position_ids is None:
            position_ids = _positions(input_ids, attention_mask, 0)
        plain = self._context(input_ids, attention_mask, position_ids, 0, use_cache=False)
        watched = dataclasses.replace(plain, keep_scores=True)
        x, sent = self._embedded(input_ids, position_ids), Handoff()
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block.attend(x, watched, sent, None)
            x, sent, _ = block(x, plain, sent)

    def _embedded(
        self, input_ids: Int[Tensor, "B T"], position_ids: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T C"]:
        x = self.token_embedding(input_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(position_ids)
        return self.dropout(x)

    def _context(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"] | Bool[Tensor, "B 1 T S"] | None,
        position_ids: Int[Tensor, "B T"],
        num_cached: int,
        use_cache: bool,
    ) -> AttentionContext:
        T = input_ids.shape[1]
        mask = None
        if attention_mask is not None or (num_cached and T > 1):
            mask = causal_mask(T, num_cached + T, attention_mask, input_ids.device)
        rotary = None
        if self.rotary_width is not None:
            rotary = rotation(position_ids, self.rotary_width)
        return AttentionContext(
            mask=mask,
            # A single query behind a cache may see every key: there is nothing to hide from it.
            is_causal=not num_cached,
            rotary=rotary,
            keep_cache=use_cache,
            keep_weights=self.keep_weights,
        )

    def _require_fit(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"] | Bool[Tensor, "B 1 T S"] | None,
        num_cached: int,
    ) -> None:
        """A UsageError is a ValueError: callers who know nothing of us can catch it as one."""
        if input_ids.dim() != 2:
            raise UsageError(
                f"input_ids has shape {tuple(input_ids.shape)}", why="a batch of sequences is (B, T)"
            )
        length = num_cached + input_ids.shape[1]
        if length > self.config.max_seq_len:
            raise UsageError(
                f"a sequence of {length} tokens is longer than max_seq_len={self.config.max_seq_len}",
                next="shorten the sequence, or build the model with a larger max_seq_len",
            )
        B, T = input_ids.shape
        expected = (B, length)
        if attention_mask is not None and tuple(attention_mask.shape) not in (expected, (B, 1, T, length)):
            raise UsageError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected {expected}",
                why="it says for every token, cached ones included, whether it is real",
            )

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # norms and biases keep torch's ones and zeros; linear biases follow below
            # Every block adds two branches to the residual stream; so scaled, their sum has the size of one.
            is_residual = name.endswith(".out.weight")
            std = INIT_STD / (2 * self.config.num_layers) ** 0.5 if is_residual else INIT_STD
            nn.init.normal_(parameter, mean=0.0, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if callable(initialise := getattr(module, "initialise", None)):
                initialise()  # what a mechanism knows better than this rule


def norm_of(config: GPTConfig) -> nn.Module:
    return make_norm(config.norm, config.d_model, config.norm_eps, config.bias)


def _positions(
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B S"] | Bool[Tensor, "B 1 T S"] | None,
    num_cached: int,
) -> Int[Tensor, "B T"]:
    """Places counted over real tokens, so that padding on the left moves nothing."""
    B, T = input_ids.shape
    if attention_mask is None or attention_mask.dim() == 4:
        return torch.arange(num_cached, num_cached + T, device=input_ids.device).expand(B, T)
    places = attention_mask.long().cumsum(dim=1) - 1
    return places.clamp(min=0)[:, num_cached:]
