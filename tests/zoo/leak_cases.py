"""Which check must convict which broken model, at which module, beside the healthy twin that it must pass.

`for case in CASES`: `case.check` convicts `case.broken()` at `case.module`, and passes `case.healthy()`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from zoo.leaks import (
    AlwaysTraining,
    Averaging,
    BatchMeanBlock,
    BatchNormOverRows,
    CachingPositions,
    ChunkMaskAtTheWrongCorner,
    Clamped,
    ClampedIds,
    Counting,
    Cropped,
    Experts,
    FaintMeanBlock,
    FlatGPT,
    ForgetsOldKeys,
    ForgottenDropout,
    GatedMeanBlock,
    HistoryBlock,
    IgnoresMask,
    InPlaceMeanBlock,
    InvertedMask,
    LastTokenBlock,
    LooksAcrossAFarEdge,
    LooksOneAhead,
    LooksOverBlockEdge,
    MaskReplacesCausality,
    MasksQueries,
    MeanBlock,
    NanAhead,
    Noise,
    NoPositions,
    Pooled,
    PooledOverPadding,
    PositionsTimesZero,
    Remembering,
    RestartsPositions,
    ScaledByLength,
    SmallHead,
    SoftmaxOverBatch,
    StartsAtOne,
    Taught,
    TaughtTheAnswer,
    TimeNormBlock,
    WrongReshape,
    block_with_mlp,
    conv_block,
    encoder_with,
)
from zoo.tiny import LIMIT, TinyEncoder, TinyGPT, Unmasked, V, with_attention, with_block


@dataclass(frozen=True)
class Case:
    """One mistake: the check that must see it, and where."""

    check: str
    name: str
    broken: Callable[[], nn.Module]
    healthy: Callable[[], nn.Module]
    module: str | None = None
    status: str = "fail"
    task: str | None = "causal-lm"
    config: dict[str, Any] | None = None
    healthy_status: str = "pass"


LIMITED = {"max_seq_len": LIMIT, "vocab_size": V}

CASES = [
    Case("causal-leak", "mask dropped in one block", with_attention(1, Unmasked), TinyGPT,
         "blocks.1.attn"),
    Case("causal-leak", "one token ahead", with_attention(2, LooksOneAhead), TinyGPT, "blocks.2.attn"),
    Case("causal-leak", "over a block edge", with_attention(0, LooksOverBlockEdge), TinyGPT,
         "blocks.0.attn"),
    Case("causal-leak", "over a far edge", with_attention(1, LooksAcrossAFarEdge), TinyGPT, "blocks.1.attn"),
    Case("causal-leak", "padding mask replaces it", with_attention(1, MaskReplacesCausality), TinyGPT,
         "blocks.1.attn"),
    Case("causal-leak", "mean over tokens", with_block(1, MeanBlock), TinyGPT, "blocks.1"),
    Case("causal-leak", "mean written in place", with_block(1, InPlaceMeanBlock), TinyGPT, "blocks.1"),
    Case("causal-leak", "a millionth of a mean", with_block(2, FaintMeanBlock), TinyGPT, "blocks.2"),
    Case("causal-leak", "gate at zero", with_block(1, GatedMeanBlock), TinyGPT, "blocks.1"),
    Case("causal-leak", "norm over tokens", with_block(0, TimeNormBlock), TinyGPT, "blocks.0.norm2"),
    Case("causal-leak", "centred convolution", with_block(1, conv_block(1, 1)), with_block(1,
         conv_block(2, 0)), "blocks.1.mlp.0"),
    Case("causal-leak", "last token to the first", with_block(1, LastTokenBlock), TinyGPT, "blocks.1"),
    Case("causal-leak", "NaN from the future", NanAhead, TinyGPT, "NanAhead"),
    Case("causal-leak", "scaled by length", ScaledByLength, TinyGPT),
    Case("causal-leak", "labels in the logits", TaughtTheAnswer, Taught, "TaughtTheAnswer"),
    Case("causal-leak", "batch norm in training", with_block(1,
         block_with_mlp(lambda: BatchNormOverRows(True))), TinyGPT, "blocks.1.mlp.bn", status="warn"),
    Case("padding-leak", "mask ignored in one block", with_attention(1, IgnoresMask), TinyGPT,
         "blocks.1.attn"),
    Case("padding-leak", "mask on the queries", with_attention(2, MasksQueries), TinyGPT,
         "blocks.2.attn"),
    Case("padding-leak", "encoder ignores it", encoder_with(IgnoresMask), TinyEncoder, "blocks.1.attn",
         task="encoder"),
    Case("padding-leak", "mask inverted", encoder_with(InvertedMask), TinyEncoder, "blocks.1.attn",
         task="encoder"),
    Case("padding-leak", "mean over padding", PooledOverPadding, Pooled, "PooledOverPadding",
         task="classification"),
    Case("batch-leak", "batch mean", with_block(1, BatchMeanBlock), TinyGPT, "blocks.1"),
    Case("batch-leak", "softmax over the batch", with_attention(2, SoftmaxOverBatch), TinyGPT,
         "blocks.2.attn"),
    Case("batch-leak", "wrong reshape", with_block(1, block_with_mlp(WrongReshape)), TinyGPT,
         "blocks.1.mlp"),
    Case("batch-leak", "batch norm without statistics", with_block(1,
         block_with_mlp(lambda: BatchNormOverRows(False))), with_block(1,
         block_with_mlp(lambda: BatchNormOverRows(True))), "blocks.1.mlp.bn", status="warn"),
    Case("batch-leak", "experts with a capacity", with_block(1, block_with_mlp(lambda: Experts(0.5))),
         with_block(1, block_with_mlp(lambda: Experts(None))), "blocks.1.mlp", status="warn"),
    Case("state-leak", "buffer moves in evaluation", with_block(1,
         block_with_mlp(lambda: Averaging(True))), with_block(1,
         block_with_mlp(lambda: Averaging(False))), "blocks.1.mlp"),
    Case("state-leak", "remembers the last call", with_attention(2, Remembering), TinyGPT,
         "blocks.2.attn"),
    Case("state-leak", "counts its calls", Counting, CachingPositions, "Counting"),
    Case("state-leak", "list of past states", with_block(0, HistoryBlock), TinyGPT, "blocks.0"),
    Case("eval-determinism", "functional dropout", with_block(1, block_with_mlp(ForgottenDropout)),
         with_block(1, block_with_mlp(lambda: nn.Dropout(0.1))), "blocks.1.mlp"),
    Case("eval-determinism", "dropout that stays awake", with_block(2,
         block_with_mlp(lambda: AlwaysTraining(0.1))), TinyGPT, "blocks.2.mlp"),
    Case("eval-determinism", "noise", with_block(0, block_with_mlp(Noise)), TinyGPT, "blocks.0.mlp"),
    Case("position-sensitivity", "encoder without positions", NoPositions, TinyEncoder, task="encoder"),
    Case("position-sensitivity", "positions times zero", PositionsTimesZero, TinyEncoder, task="encoder"),
    Case("position-sensitivity", "one flat causal layer", FlatGPT, TinyGPT),
    Case("position-limit", "first position is one", StartsAtOne, TinyGPT, config=LIMITED),
    Case("position-limit", "half the table", lambda: TinyGPT(positions=LIMIT // 2), TinyGPT,
         config=LIMITED),
    Case("position-limit", "positions clamped", Clamped, TinyGPT, "pos", status="warn", config=LIMITED),
    Case("position-limit", "input cropped in silence", Cropped, TinyGPT, status="warn", config=LIMITED),
    Case("vocab-range", "table smaller than the vocabulary", lambda: TinyGPT(rows=V - 3), TinyGPT, "tok",
         config=LIMITED),
    Case("vocab-range", "head too narrow", SmallHead, TinyGPT, config=LIMITED),
    Case("vocab-range", "ids clamped", ClampedIds, TinyGPT, status="warn", config=LIMITED),
    Case("cache-parity", "positions restart", RestartsPositions, TinyGPT, "RestartsPositions"),
    Case("cache-parity", "old keys forgotten", with_attention(1, ForgetsOldKeys), TinyGPT,
         "blocks.1.attn"),
    Case("cache-parity", "chunk mask at the wrong corner", with_attention(2, ChunkMaskAtTheWrongCorner),
         TinyGPT, "blocks.2.attn"),
]  # fmt: skip
