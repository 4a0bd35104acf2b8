"""One small model per way of writing attention, with faults on request."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, VOCAB, LENGTH = 16, 2, 50, 32
WAYS = ("mha", "encoder-layer", "sdpa", "flex", "softmax", "einsum")
FAULTS = ("sharp", "wrong-axis", "deaf", "random", "jump", "compiled", "rounding", "overridden")


class Attending(nn.Module):
    """Two blocks of causal attention (both ways of nn.* see everything), written in `way`."""

    def __init__(self, way: str, fault: str | None = None) -> None:
        super().__init__()
        self.way, self.fault = way, fault
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        if way == "mha":
            self.mixers = nn.ModuleList(
                nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(2)
            )
        elif way == "encoder-layer":
            self.mixers = nn.ModuleList(
                (Doubling if fault == "overridden" else nn.TransformerEncoderLayer)(
                    WIDTH, HEADS, 32, batch_first=True, dropout=0.0
                )
                for _ in range(2)
            )
        else:
            self.mixers = nn.ModuleList(Mixer(way, fault) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        if self.fault == "deaf":
            x = torch.zeros_like(x)
        for mixer in self.mixers:
            if self.way == "mha":
                x = x + mixer(x, x, x, need_weights=False)[0]
            elif self.way == "encoder-layer":
                x = mixer(x)
            else:
                x = x + mixer(x)
        if self.fault == "random":
            x = x + torch.randn(x.shape, generator=_SHARED)
        if self.fault == "jump":
            x = x + 3 * torch.round(2 * x).detach() + torch.sin(60 * x)
        return self.head(x)


_SHARED = torch.Generator().manual_seed(0)


class Doubling(nn.TransformerEncoderLayer):
    """What it overrides is not called while torch's fused layer runs, which is when no gradient is kept."""

    def _sa_block(self, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * super()._sa_block(*args, **kwargs)


class Mixer(nn.Module):
    def __init__(self, way: str, fault: str | None) -> None:
        super().__init__()
        self.way, self.fault = way, fault
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        if self.fault == "sharp":
            q = q * 1e4
        if self.fault == "compiled" and torch.compiler.is_compiling():
            v = v * 1.01
        if self.fault == "rounding":
            v = (v + 1000) - 1000
        if self.way == "sdpa":
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.way == "flex":
            from torch.nn.attention.flex_attention import flex_attention

            mixed = flex_attention(q, k, v, score_mod=_causal)
        else:
            mixed = self._by_hand(q, k, v)
        return mixed.transpose(1, 2).reshape(rows, length, WIDTH)

    def _by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[2]
        hidden = torch.full((length, length), -torch.inf).triu(1)
        axis = -2 if self.fault == "wrong-axis" else -1
        if self.way == "softmax":
            return ((q @ k.transpose(-1, -2)) / 8**0.5 + hidden).softmax(axis) @ v
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5 + hidden
        return torch.einsum("bhij,bhjd->bhid", functional.softmax(scores, axis), v)


def _causal(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return torch.where(query >= key, score, -float("inf"))
