"""Healthy small models, written to be broken: a GPT with mask and cache, an encoder, one block swapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

V, C, H, LIMIT = 61, 24, 3, 96
"""Vocabulary, width, heads, longest sequence."""


class Attention(nn.Module):
    """Causal self-attention with a padding mask (1: real) on the keys and an optional cache."""

    causal = True

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(C, 3 * C)
        self.proj = nn.Linear(C, C)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        q, k, v = self.heads(x)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        allowed = self.allowed(x.shape[1], k.shape[2], x.device)
        if mask is not None:
            allowed = self.with_padding(allowed, mask)
        scores = (q @ k.transpose(-1, -2)) / (C // H) ** 0.5
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        return self.proj(y), (k, v)

    def heads(self, x: Tensor) -> list[Tensor]:
        B, T, _ = x.shape
        return [each.view(B, T, H, C // H).transpose(1, 2) for each in self.qkv(x).split(C, -1)]

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor:
        every = torch.ones(queries, keys, dtype=torch.bool, device=device)
        return every.tril(keys - queries)[None, None] if self.causal else every[None, None]

    def with_padding(self, allowed: Tensor, mask: Tensor) -> Tensor:
        return allowed & mask[:, None, None, :].bool()


class Block(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module] = Attention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(C)
        self.attn = attention()
        self.norm2 = nn.LayerNorm(C)
        self.mlp = nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C))

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        y, cache = self.attn(self.norm1(x), mask, past)
        x = x + y
        return x + self.mlp(self.norm2(x)), cache


class TinyGPT(nn.Module):
    """Learned positions, three blocks, a mask, a cache. Healthy."""

    def __init__(self, blocks: list[nn.Module] | None = None, rows: int = V, positions: int = LIMIT) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tok = nn.Embedding(rows, C)
        self.pos = nn.Embedding(positions, C)
        self.blocks = nn.ModuleList(blocks or [Block() for _ in range(3)])
        self.norm = nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> dict[str, Any]:
        x = self.embed(input_ids, 0 if past_key_values is None else past_key_values[0][0].shape[2])
        caches = []
        for number, block in enumerate(self.blocks):
            x, cache = block(x, attention_mask, past_key_values[number] if past_key_values else None)
            caches.append(cache)
        return {"logits": self.head(self.norm(x)), "past_key_values": caches if use_cache else None}

    def embed(self, ids: Tensor, start: int) -> Tensor:
        return self.tok(ids) + self.pos(start + torch.arange(ids.shape[1], device=ids.device))


class Unmasked(Attention):
    causal = False


class TinyEncoder(TinyGPT):
    """Sees both sides; gives hidden states."""

    def __init__(self, blocks: list[nn.Module] | None = None) -> None:
        super().__init__(blocks or [Block(Unmasked) for _ in range(2)])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        x = self.embed(input_ids, 0)
        for block in self.blocks:
            x, _ = block(x, attention_mask)
        return self.norm(x)


def with_block(
    place: int, block: Callable[[], nn.Module], model: type[TinyGPT] = TinyGPT
) -> Callable[[], TinyGPT]:
    def build() -> TinyGPT:
        torch.manual_seed(0)
        return model([block() if number == place else Block() for number in range(3)])

    return build


def with_attention(place: int, attention: type[Attention]) -> Callable[[], TinyGPT]:
    return with_block(place, lambda: Block(attention))
