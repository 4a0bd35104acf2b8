"""Faults of weights, cost and training, each a few lines away from the healthy decoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from zoo.tiny_decoder import LIMIT, Attention, Block, C, Healthy, V

# --- shape-robustness -----------------------------------------------------------------------------


class IgnoresInput(Healthy):
    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(torch.zeros_like(ids))


class FlattensBatch(Healthy):
    def score(self, x: Tensor) -> Tensor:
        return super().score(x).flatten(0, 1)[None]


class OnlyEvenLengths(Healthy):
    def run(self, x: Tensor) -> Tensor:
        return super().run(x.view(x.shape[0], x.shape[1] // 2, 2, C).flatten(1, 2))


class ZeroAnswer(Healthy):
    def score(self, x: Tensor) -> Tensor:
        return torch.zeros_like(super().score(x))


class EmptyMean(Healthy):
    def embed(self, ids: Tensor) -> Tensor:
        x = super().embed(ids)
        return x - x[:, 1:].mean(dim=1, keepdim=True)  # NaN for a single token


# --- gradient-flow --------------------------------------------------------------------------------


class DetachedBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class NoGradAttention(Attention):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class SquareRootOfZero(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = super().mix(q, k, v)
        return y + (y * 0).sqrt()  # finite forward, infinite backward


class SaturatedBlock(nn.Module):
    """No residual path, sigmoids all the way: gradients fade by a thousand per block."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(C, C), nn.Sigmoid(), nn.Linear(C, C), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def faded() -> nn.Module:
    return Healthy([SaturatedBlock() for _ in range(4)])


class ZeroProjection(Healthy):
    """Healthy: every residual branch ends in zeros, so that each block starts as the identity."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp[2].weight)


# --- numerical-stability --------------------------------------------------------------------------


class BareNorm(nn.Module):
    """A norm without eps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x - x.mean(-1, keepdim=True)) / x.var(-1, keepdim=True, correction=0).sqrt()


class TokenNorm(nn.Module):
    """Normalises over tokens, without eps: equal tokens have no variance."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)


class NormOverTokens(Healthy):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.over_tokens = norm

    def embed(self, ids: Tensor) -> Tensor:
        return self.over_tokens(self.tok(ids))


def zero_row(model: Healthy) -> None:
    model.blocks[0].norm1 = BareNorm()
    model.tok.weight[0] = 0.0
    model.pos.weight.zero_()


class NaiveSoftmax(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.transpose(-1, -2)).tril()
        weights = (scores * 3e3).exp().tril()
        return weights / weights.sum(-1, keepdim=True) @ v


# --- parameter-initialization ---------------------------------------------------------------------


def repeat_rows(model: Healthy) -> None:
    weight = model.blocks[1].mlp[0].weight
    weight.copy_(weight[:1].expand_as(weight).clone())


def spoil(model: Healthy) -> None:
    model.blocks[2].attn.qkv.weight[3, 4] = math.nan


# --- memory-footprint and inference-speed ---------------------------------------------------------


class Diary(Healthy):
    """Keeps every state that it ever saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def run(self, x: Tensor) -> Tensor:
        x = super().run(x)
        self.seen.append(x.detach())
        return x


class AcrossRows(Attention):
    """Scores between all tokens of all rows, masked afterwards: right answers, cost of the batch squared."""

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.qkv(x).reshape(1, B * T, 3 * C).split(C, -1)
        rows = torch.arange(B * T, device=x.device) // T
        allowed = (rows[:, None] == rows[None]).tril()
        scores = (q @ k.transpose(-1, -2)).masked_fill(~allowed, -1e9)
        return self.proj((scores.softmax(-1) @ v).view(B, T, C))


class Triples(Attention):
    """A weight for every triple of tokens."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.transpose(-1, -2)).tril().tanh()
        triples = scores[..., :, :, None] * scores[..., :, None, :]
        return super().mix(q, k, v) + triples.mean(-1) @ v


class GrowingMemory(Healthy):
    """Attends to the states of all former calls."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[Tensor] = []

    def run(self, x: Tensor) -> Tensor:
        for old in self.memory:
            x = x + 0.0 * (old @ old.t()).sum()
        self.memory.append(x.detach()[0])
        return super().run(x)


class MatrixPower(Attention):
    """Mixes by the cube of a token-by-token matrix."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.transpose(-1, -2)).tril().tanh()
        return super().mix(q, k, v) + scores @ scores @ scores @ v / v.shape[-2] ** 3


# --- dead-parameters ------------------------------------------------------------------------------


class SkipsBlock(Healthy):
    def run(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            if number != 2:
                x = block(x)
        return x


class ForgetsLastBlock(Healthy):
    def run(self, x: Tensor) -> Tensor:
        for block in list(self.blocks)[:-1]:
            x = block(x)
        return x


class NoAttention(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x))


class Multiplied(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm1(x)) + 0.0 * self.mlp(self.norm2(x))


class OverwrittenBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        return x


class Experts(nn.Module):
    """Healthy: a token goes to one of eight experts; in a short batch some stay idle."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(C, 8)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C)) for _ in range(8)]
        )

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            here = chosen == number
            if bool(here.any()):
                out[here] = expert(x[here])
        return out * weights[..., None]


def with_experts() -> nn.Module:
    blocks = [Block() for _ in range(2)]
    for block in blocks:
        block.mlp = Experts()
    return Healthy(list(blocks))


# --- unregistered-parameters and save-load --------------------------------------------------------


class PlainList(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.extra = [nn.Linear(C, C) for _ in range(2)]

    def embed(self, ids: Tensor) -> Tensor:
        x = super().embed(ids)
        for each in self.extra:
            x = x + each(x)
        return x


class RegisteredList(PlainList):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.ModuleList(self.extra)  # type: ignore[assignment]


class PlainTensor(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.randn(C)

    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids) + self.shift


class LostBuffer(Healthy):
    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("features", torch.randn(C, C), persistent=persistent)

    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids) @ self.features


class HiddenParameter(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.holder = {"gain": nn.Parameter(1 + 0.1 * torch.randn(C))}

    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids) * self.holder["gain"]


class RotaryTable(Healthy):
    """Healthy: a table that follows from a rule may stay outside of the state."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(LIMIT)[:, None] * 10000 ** -(torch.arange(0, C, 2) / C)[None]
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], -1), persistent=False)
        self.plain = angles.cos().repeat(1, 2)

    def embed(self, ids: Tensor) -> Tensor:
        T = ids.shape[1]
        return self.tok(ids) + self.table[:T] * self.plain[:T]


class RunningMean(Healthy):
    """Keeps statistics of training in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(C)

    def run(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 1))
        return super().run(x - self.mean)


class ForgetfulState(Healthy):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if "norm2" not in name}


class PartlyShared(Healthy):
    """Two parameters that overlap in memory, neither of them whole."""

    def __init__(self) -> None:
        super().__init__(tie=False)
        pool = torch.randn(V + 8, C) * 0.02
        self.tok.weight = nn.Parameter(pool[:V])
        self.head.weight = nn.Parameter(pool[8:])


# --- init-loss and overfit-one-batch --------------------------------------------------------------


class Probabilities(Healthy):
    def score(self, x: Tensor) -> Tensor:
        return super().score(x).softmax(-1)


class DetachedState(Healthy):
    """Only the output bias learns."""

    def __init__(self) -> None:
        super().__init__(tie=False)
        self.head = nn.Linear(C, V)

    def score(self, x: Tensor) -> Tensor:
        return self.head.bias + (super().score(x) - self.head.bias).detach()


class Restarts(Healthy):
    """Draws its weights in forward, where they were meant to be drawn once."""

    def embed(self, ids: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        for each in self.parameters():
            if each.dim() > 1:
                each.data.copy_(0.02 * torch.randn(each.shape, generator=generator))
        return super().embed(ids)


class Rounded(Healthy):
    def run(self, x: Tensor) -> Tensor:
        return (super().run(x) * 100).round() / 100


# --- residual-scale -------------------------------------------------------------------------------


class Doubling(Block):
    def forward(self, x: Tensor) -> Tensor:
        return 6.0 * super().forward(x)


class Tripling(Block):
    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * super().forward(x)


class NoResidual(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) * 0.5


# --- tied-weights ---------------------------------------------------------------------------------


def copy_head(model: Healthy) -> None:
    model.head.weight = nn.Parameter(model.tok.weight.clone())


def share_data(model: Healthy) -> None:
    model.head.weight = nn.Parameter(model.tok.weight.data)


# --- low-precision --------------------------------------------------------------------------------


class LosesDigits(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (super().mix(q, k, v) + 1e3) - 1e3


class Overflows(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = super().mix(q, k, v) + 1.0
        return (y * 1e3).square().square().sqrt() / 1e6


class LongSum(Healthy):
    def score(self, x: Tensor) -> Tensor:
        offset = torch.full_like(x, 300.0)
        return super().score(x + offset - offset + 0 * x)
