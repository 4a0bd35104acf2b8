"""Small models with one leak each: a few lines off `TinyGPT` or `TinyEncoder`, as real mistakes are.

Which check must convict which, and where, is listed in `leak_cases.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.tiny import (
    LIMIT,
    Attention,
    Block,
    C,
    TinyEncoder,
    TinyGPT,
    Unmasked,
    V,
)

# --- causal -----------------------------------------------------------------------------------------------


class LooksOneAhead(Attention):
    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries + 1)[None, None]


class LooksOverBlockEdge(Attention):
    """Only position 31 sees position 32: a tile boundary off by one."""

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor:
        allowed = super().allowed(queries, keys, device).clone()
        if queries > 32:
            allowed[..., 31, 32] = True
        return allowed


class LooksAcrossAFarEdge(Attention):
    """Only queries 64 to 79 see key 80: a window's edge, out of reach of short inputs."""

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor:
        allowed = super().allowed(queries, keys, device).clone()
        if queries > 80:
            allowed[..., 64:80, 80] = True
        return allowed


class MaskReplacesCausality(Attention):
    """With a padding mask, the causal one is forgotten."""

    def with_padding(self, allowed: Tensor, mask: Tensor) -> Tensor:
        return mask[:, None, None, :].bool().expand_as(allowed | mask[:, None, None, :].bool())


class MeanBlock(Block):
    """A summary of the whole sequence joins every position."""

    def gate(self) -> Any:
        return 1.0

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        x, cache = super().forward(x, mask, past)
        return x + self.gate() * x.mean(1, keepdim=True), cache


class FaintMeanBlock(MeanBlock):
    def gate(self) -> Any:
        return 1e-6


class GatedMeanBlock(MeanBlock):
    """The gate starts at zero: nothing leaks before training, everything after."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def gate(self) -> Any:
        return self.weight


class InPlaceMeanBlock(Block):
    """Writes the summary into its own input."""

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        x += 0.1 * x.mean(1, keepdim=True)
        return super().forward(x, mask, past)


class TimeNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.transpose(1, 2), (x.shape[1],)).transpose(1, 2)


class TimeNormBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        self.norm2 = TimeNorm()  # type: ignore[assignment]


class CenteredConv(nn.Module):
    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.sides = (left, right)
        self.conv = nn.Conv1d(C, C, left + right + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x.transpose(1, 2), self.sides)).transpose(1, 2)


def conv_block(left: int, right: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        block = Block()
        block.mlp = nn.Sequential(CenteredConv(left, right), nn.GELU())
        return block

    return build


class LastTokenBlock(Block):
    """The last token reaches the first, and nothing else."""

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        x, cache = super().forward(x, mask, past)
        return torch.cat([x[:, :1] + 0.1 * x[:, -1:], x[:, 1:]], 1), cache


class NanAhead(TinyGPT):
    """One token in the future turns everything into NaN."""

    def forward(self, input_ids: Tensor, **more: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids)
        output["logits"] = output["logits"] + torch.where(
            input_ids[:, -1:, None] % 2 == 0, float("nan"), 0.0
        ).to(output["logits"])
        return output


class ScaledByLength(TinyGPT):
    """Temperature from the length of the whole sequence: appended tokens change earlier outputs."""

    def embed(self, ids: Tensor, start: int) -> Tensor:
        return super().embed(ids, start) * (1 + 0.1 * ids.shape[1] ** 0.5)


class Taught(TinyGPT):
    """Takes labels and uses them for the loss only."""

    leak = 0.0

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Any]:  # type: ignore[override]
        logits = super().forward(input_ids)["logits"]
        loss = None
        if labels is not None:
            if self.leak:
                logits = logits + self.leak * F.one_hot(labels.clamp(min=0), V).to(logits)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


class TaughtTheAnswer(Taught):
    leak = 0.01


# --- padding ----------------------------------------------------------------------------------------------


class IgnoresMask(Attention):
    def with_padding(self, allowed: Tensor, mask: Tensor) -> Tensor:
        return allowed


class MasksQueries(Attention):
    def with_padding(self, allowed: Tensor, mask: Tensor) -> Tensor:
        return allowed & mask[:, None, :, None].bool()


class InvertedMask(Attention):
    def with_padding(self, allowed: Tensor, mask: Tensor) -> Tensor:
        return allowed & (mask[:, None, None, :] == 0)


def encoder_with(attention: type[Attention]) -> Callable[[], nn.Module]:
    class Both(attention):  # type: ignore[misc, valid-type]
        causal = False

    def build() -> nn.Module:
        torch.manual_seed(0)
        return TinyEncoder([Block(Unmasked), Block(Both)])

    return build


class Pooled(TinyEncoder):
    """A mean over tokens: with the mask, or over padding too."""

    masked = True

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(C, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        states = super().forward(input_ids, attention_mask)
        weight = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if not self.masked:
            weight = torch.ones_like(input_ids)
        weight = weight[..., None].to(states)
        return self.classify((states * weight).sum(1) / weight.sum(1))


class PooledOverPadding(Pooled):
    masked = False


# --- batch ------------------------------------------------------------------------------------------------


class BatchMeanBlock(Block):
    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        x, cache = super().forward(x, mask, past)
        return x - 0.1 * x.mean(0, keepdim=True), cache


class SoftmaxOverBatch(Attention):
    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        y, cache = super().forward(x, mask, past)
        return y * y.softmax(0), cache


class WrongReshape(nn.Module):
    """(T, B, C) read as (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(0, 1).reshape(x.shape))


class BatchNormOverRows(nn.Module):
    def __init__(self, running: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(C, track_running_stats=running)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.transpose(1, 2)).transpose(1, 2)


def block_with_mlp(mlp: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        block = Block()
        block.mlp = mlp()  # type: ignore[assignment]
        return block

    return build


class Experts(nn.Module):
    """A router and four experts; with a capacity, late tokens of the batch are dropped."""

    def __init__(self, capacity: float | None) -> None:
        super().__init__()
        self.router = nn.Linear(C, 4)
        self.experts = nn.ModuleList(nn.Linear(C, C) for _ in range(4))
        self.capacity = capacity

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, C)
        weight, chosen = self.router(flat).softmax(-1).max(-1)
        result = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero()[:, 0]
            if self.capacity is not None:
                mine = mine[: max(1, int(self.capacity * len(flat) / 4))]
            result[mine] = expert(flat[mine]) * weight[mine, None]
        return result.view_as(x)


# --- state and randomness ---------------------------------------------------------------------------------


class Averaging(nn.Module):
    """Moves a buffer at every call; a healthy one does so only in training."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always
        self.register_buffer("seen", torch.zeros(C))

    def forward(self, x: Tensor) -> Tensor:
        if self.always or self.training:
            with torch.no_grad():
                self.seen.mul_(0.9).add_(0.1 * x.detach().mean((0, 1)))
        return x - self.seen


class Remembering(Attention):
    """Keeps the keys of the last call in an attribute."""

    memory: Any = None

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        y, cache = super().forward(x, mask, past)
        if self.memory is not None:
            y = y + 0.1 * self.memory
        self.memory = y.mean((0, 1)).detach()
        return y, cache


class Counting(TinyGPT):
    calls = 0

    def embed(self, ids: Tensor, start: int) -> Tensor:
        self.calls += 1
        return super().embed(ids, start) * (1 + 0.01 * self.calls)


class HistoryBlock(Block):
    """Appends to a plain list, and looks at its length."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        x, cache = super().forward(x, mask, past)
        self.history.append(x.detach().mean())
        return x * (1 + 0.01 * len(self.history)), cache


class CachingPositions(TinyGPT):
    """Healthy: a table that grows with the longest input and changes nothing."""

    table: Tensor | None = None

    def embed(self, ids: Tensor, start: int) -> Tensor:
        if self.table is None or len(self.table) < ids.shape[1]:
            self.table = torch.arange(ids.shape[1], device=ids.device)
        return self.tok(ids) + self.pos(start + self.table[: ids.shape[1]])


class ForgottenDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1)


class AlwaysTraining(nn.Dropout):
    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)


# --- positions --------------------------------------------------------------------------------------------


class NoPositions(TinyEncoder):
    def embed(self, ids: Tensor, start: int) -> Tensor:
        return self.tok(ids)


class PositionsTimesZero(TinyEncoder):
    def embed(self, ids: Tensor, start: int) -> Tensor:
        return self.tok(ids) + 0.0 * self.pos(torch.arange(ids.shape[1]))


class FlatGPT(TinyGPT):
    """One causal layer without positions: the last token sees a bag."""

    def __init__(self) -> None:
        super().__init__([Block()])

    def embed(self, ids: Tensor, start: int) -> Tensor:
        return self.tok(ids)


class StartsAtOne(TinyGPT):
    def embed(self, ids: Tensor, start: int) -> Tensor:
        return super().embed(ids, start + 1)


class Clamped(TinyGPT):
    def embed(self, ids: Tensor, start: int) -> Tensor:
        places = (start + torch.arange(ids.shape[1], device=ids.device)).clamp(
            max=self.pos.num_embeddings - 1
        )
        return self.tok(ids) + self.pos(places)


class Cropped(TinyGPT):
    def forward(self, input_ids: Tensor, **more: Any) -> Any:  # type: ignore[override]
        return super().forward(input_ids[:, -LIMIT:])


# --- vocabulary -------------------------------------------------------------------------------------------


class ClampedIds(TinyGPT):
    def embed(self, ids: Tensor, start: int) -> Tensor:
        return super().embed(ids.clamp(max=V - 1), start)


class SmallHead(TinyGPT):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(C, V - 4, bias=False)


# --- cache ------------------------------------------------------------------------------------------------


class RestartsPositions(TinyGPT):
    def embed(self, ids: Tensor, start: int) -> Tensor:
        return super().embed(ids, 0)


class ForgetsOldKeys(Attention):
    def forward(self, x: Tensor, mask: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        y, (k, v) = super().forward(x, mask, past)
        return y, (k[:, :, -4:], v[:, :, -4:]) if past is not None else (k, v)


class ChunkMaskAtTheWrongCorner(Attention):
    """The triangle starts at the first key instead of at the first new one."""

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor:
        if queries == 1:
            return super().allowed(queries, keys, device)
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()[None, None]
