"""A small decoder that fulfils every law of tier 1, made of parts that a test can replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

V, C, H, LIMIT = 67, 32, 4, 64


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(C, 3 * C)
        self.proj = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (each.view(B, T, H, C // H).transpose(1, 2) for each in self.qkv(x).split(C, -1))
        y = self.mix(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module] = Attention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(C)
        self.attn = attention()
        self.norm2 = nn.LayerNorm(C)
        self.mlp = nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Healthy(nn.Module):
    """A decoder that fulfils every law: learned positions, four blocks, weights of std 0.02, tied head."""

    def __init__(self, blocks: list[nn.Module] | None = None, tie: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tok = nn.Embedding(V, C)
        self.pos = nn.Embedding(LIMIT, C)
        self.blocks = nn.ModuleList(blocks or [Block() for _ in range(4)])
        self.norm = nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)
        self.apply(small_start)
        if tie:
            self.head.weight = self.tok.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.score(self.run(self.embed(input_ids)))

    def embed(self, ids: Tensor) -> Tensor:
        return self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


def small_start(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def untied() -> nn.Module:
    return Healthy(tie=False)


def changed(change: Callable[[Healthy], Any]) -> Callable[[], nn.Module]:
    """A healthy model after `change`, which is applied without gradients."""

    def build() -> nn.Module:
        model = Healthy()
        with torch.no_grad():
            change(model)
        return model

    return build


def of_blocks(kind: Callable[[], nn.Module], at: int | None = None) -> Callable[[], nn.Module]:
    """A model of such blocks, or with one such block."""

    def build() -> nn.Module:
        return Healthy([kind() if at is None or number == at else Block() for number in range(4)])

    return build


def of_attention(kind: Callable[[], nn.Module], at: int = 1) -> Callable[[], nn.Module]:
    return of_blocks(lambda: Block(kind), at)
