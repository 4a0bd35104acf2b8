"""Which model must fail which check of weights, cost and training, and which healthy twin must pass it.

`for case in CASES`: `case.broken()` must be convicted by `case.check`, at `case.module` where one is named;
`case.healthy()` must pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from zoo.tiny_decoder import Block, Healthy, changed, of_attention, of_blocks, untied
from zoo.weight_faults import (
    AcrossRows,
    DetachedBlock,
    DetachedState,
    Diary,
    Doubling,
    EmptyMean,
    FlattensBatch,
    ForgetfulState,
    ForgetsLastBlock,
    GrowingMemory,
    HiddenParameter,
    IgnoresInput,
    LongSum,
    LostBuffer,
    MatrixPower,
    Multiplied,
    NaiveSoftmax,
    NoAttention,
    NoGradAttention,
    NoResidual,
    NormOverTokens,
    OnlyEvenLengths,
    Overflows,
    OverwrittenBlock,
    PartlyShared,
    PlainList,
    PlainTensor,
    Probabilities,
    RegisteredList,
    Restarts,
    RotaryTable,
    Rounded,
    RunningMean,
    SkipsBlock,
    SquareRootOfZero,
    TokenNorm,
    Triples,
    Tripling,
    ZeroAnswer,
    ZeroProjection,
    copy_head,
    faded,
    repeat_rows,
    share_data,
    spoil,
    with_experts,
    zero_row,
)


@dataclass(frozen=True)
class Case:
    """One mistake: the check that must see it, and where."""

    check: str
    name: str
    broken: Callable[[], nn.Module]
    healthy: Callable[[], nn.Module]
    module: str | None = None
    task: str | None = "causal-lm"
    config: dict[str, Any] | None = None


TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}

CASES = [
    Case("shape-robustness", "ignores its input", IgnoresInput, Healthy),
    Case("shape-robustness", "flattens the batch", FlattensBatch, Healthy),
    Case("shape-robustness", "even lengths only", OnlyEvenLengths, Healthy),
    Case("shape-robustness", "answers zeros", ZeroAnswer, Healthy),
    Case("shape-robustness", "NaN for one token", EmptyMean, Healthy),
    Case("gradient-flow", "detached block", of_blocks(DetachedBlock, 2), Healthy),
    Case(
        "gradient-flow",
        "no_grad in attention",
        of_attention(NoGradAttention, 1),
        ZeroProjection,
        "blocks.1.attn",
    ),
    Case("gradient-flow", "sqrt of zero", of_attention(SquareRootOfZero, 1), Healthy),
    Case("gradient-flow", "fades with depth", faded, Healthy),
    Case("gradient-flow", "rounded state", Rounded, Healthy),
    Case(
        "numerical-stability",
        "norm over tokens without eps",
        lambda: NormOverTokens(TokenNorm()),
        Healthy,
        "over_tokens",
    ),
    Case("numerical-stability", "norm of a zero row", changed(zero_row), Healthy, "blocks.0.norm1"),
    Case(
        "numerical-stability",
        "softmax without maximum",
        of_attention(NaiveSoftmax, 2),
        Healthy,
        "blocks.2.attn",
    ),
    Case(
        "parameter-initialization",
        "constant matrix",
        changed(lambda m: m.blocks[0].mlp[0].weight.fill_(0.02)),
        Healthy,
        "blocks.0.mlp.0",
    ),
    Case(
        "parameter-initialization",
        "std of 10",
        changed(lambda m: m.blocks[3].attn.qkv.weight.normal_(std=10.0)),
        ZeroProjection,
        "blocks.3.attn.qkv",
    ),
    Case("parameter-initialization", "equal rows", changed(repeat_rows), Healthy, "blocks.1.mlp.0"),
    Case("parameter-initialization", "NaN", changed(spoil), Healthy, "blocks.2.attn.qkv"),
    Case(
        "parameter-initialization",
        "not centred",
        changed(lambda m: m.blocks[1].mlp[2].weight.uniform_(0, 0.2)),
        Healthy,
        "blocks.1.mlp.2",
    ),
    Case(
        "parameter-initialization",
        "all zero",
        changed(lambda m: [p.zero_() for p in m.parameters() if p.dim() > 1]),
        Healthy,
    ),
    Case("memory-footprint", "keeps every state", Diary, Healthy),
    Case("memory-footprint", "pairs of rows", of_blocks(lambda: Block(AcrossRows)), Healthy),
    Case("memory-footprint", "triples of tokens", of_attention(Triples), Healthy),
    Case("inference-speed", "works through former calls", GrowingMemory, Healthy),
    Case("inference-speed", "cube of tokens", of_blocks(lambda: Block(MatrixPower)), Healthy),
    Case("dead-parameters", "skips a block", SkipsBlock, Healthy, "blocks.2"),
    Case("dead-parameters", "forgets the last block", ForgetsLastBlock, with_experts, "blocks.3"),
    Case(
        "dead-parameters",
        "no attention in one block",
        of_blocks(NoAttention, 1),
        ZeroProjection,
        "blocks.1.attn",
    ),
    Case("dead-parameters", "multiplied by zero", of_blocks(Multiplied, 2), Healthy, "blocks.2.mlp"),
    Case("dead-parameters", "result overwritten", of_blocks(OverwrittenBlock, 1), Healthy, "blocks.1"),
    Case("unregistered-parameters", "plain list", PlainList, RegisteredList, ""),
    Case("unregistered-parameters", "plain tensor", PlainTensor, RotaryTable, ""),
    Case("unregistered-parameters", "drawn buffer not saved", LostBuffer, lambda: LostBuffer(True), ""),
    Case("unregistered-parameters", "parameter in a dict", HiddenParameter, Healthy, ""),
    Case("init-loss", "head too large", changed(lambda m: m.head.weight.mul_(100.0)), Healthy),
    Case(
        "init-loss", "embedding of std 1 tied to the head", changed(lambda m: m.tok.weight.normal_()), untied
    ),
    Case("init-loss", "softmax in forward", Probabilities, Healthy),
    Case("overfit-one-batch", "only the bias learns", DetachedState, Healthy),
    Case("overfit-one-batch", "softmax in forward", Probabilities, Healthy),
    Case("overfit-one-batch", "starts anew in forward", Restarts, ZeroProjection),
    Case("residual-scale", "multiplies in every block", of_blocks(Doubling), Healthy),
    Case("residual-scale", "triples in every block", of_blocks(Tripling), Healthy),
    Case("dead-parameters", "no attention at all", of_blocks(NoAttention), Healthy, "blocks.0.attn"),
    Case("dead-parameters", "mlp multiplied by zero", of_blocks(Multiplied), Healthy, "blocks.0.mlp"),
    Case("residual-scale", "no residual path", of_blocks(NoResidual), Healthy),
    Case("tied-weights", "copy instead of tie", changed(copy_head), Healthy, "head.weight"),
    Case("tied-weights", "configured tie is absent", untied, Healthy, "head.weight", config=TIED),
    Case("tied-weights", "data shared by two parameters", changed(share_data), untied, "head.weight"),
    Case("save-load", "drawn tensor outside of the state", PlainTensor, RotaryTable),
    Case("save-load", "module in a plain list", PlainList, RegisteredList),
    Case("save-load", "running mean as attribute", RunningMean, Healthy),
    Case("save-load", "keys left out", ForgetfulState, Healthy),
    Case("save-load", "overlapping parameters", PartlyShared, untied),
    Case("low-precision", "offset eats the digits", LongSum, Healthy),
    Case("low-precision", "square overflows", of_attention(Overflows, 2), Healthy),
]
