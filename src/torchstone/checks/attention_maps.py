"""Attention weights of any model, read while it runs and proven by what it then answers.

    maps = read_attention(context, batch)
    maps[0].module, maps[0].weights         # "blocks.0.attn", [batch, heads, queries, keys]

Fused kernels never build the weights. For one pass they are kept from running: torch then computes the same
attention as softmax and product, and every softmax whose result multiplies values is seen at the
dispatcher, whoever wrote it: `nn.MultiheadAttention`, `nn.TransformerEncoderLayer`,
scaled_dot_product_attention, FlexAttention, an explicit softmax. Nothing of the model is replaced. The pass
proves itself: its answer must be that of the untouched model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from torchstone._errors import ModelError
from torchstone.train.running import running

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context

SOFTMAXES = ("_softmax", "_safe_softmax")
PRODUCTS = ("bmm", "mm", "matmul", "baddbmm")
SAME_WEIGHTS = (
    "_to_copy", "clone", "native_dropout", "expand", "view", "_unsafe_view", "reshape", "permute",
    "transpose", "slice", "select", "unsqueeze", "squeeze", "contiguous", "alias", "detach", "mul",
    "masked_fill", "where", "nan_to_num", "div", "copy", "constant_pad_nd", "split", "t", "dropout",
)  # fmt: skip
"""Operations after which weights are still weights: cast, cut, laid out anew, masked, scaled."""
CLOSE = 1e-5
"""Share of the largest answer by which the pass may differ; fused kernels add in another order."""


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one call of one attention."""

    module: str
    weights: Tensor
    """[batch, heads, queries, keys], float32 on the CPU; the rows of a softmax over keys sum to one."""


def read_attention(context: Context, batch: Batch) -> list[AttentionMap]:
    """Maps in the order of the calls; empty where no softmax attends.

    ModelError where the answer of the pass is not that of the model, so that nothing is proven.
    """
    plain = context.main(batch)
    with running(context.module) as path, written_out(), _Reader(_rows(batch), path) as reader:
        shadow = context.main(batch)
    scale = max(float(plain.abs().max()), 1e-30)
    apart = float((plain - shadow).abs().max()) / scale
    if not apart <= CLOSE:
        raise ModelError(
            "with attention written out the model answers differently",
            why=f"the answers differ by {apart:.1e} of the largest, more than {CLOSE:.0e}",
            next="torchstone check --only eval-determinism,low-precision",
        )
    return reader.maps


def _rows(batch: Batch) -> int:
    return next(int(value.shape[0]) for value in batch.values() if isinstance(value, Tensor) and value.dim())


class _Reader(TorchDispatchMode):
    """Watches softmax results until they multiply something."""

    supports_higher_order_operators = True

    def __init__(self, rows: int, path: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = rows
        self.maps: list[AttentionMap] = []
        self.path = path
        self._weights: dict[int, Tensor] = {}
        """Address of storage -> a tensor on it, which is held so that the address is not given away again."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        out = func(*args, **kwargs)
        name = func.__name__.partition(".")[0]
        if name in SOFTMAXES:
            self._softmax(args, out)
        elif name in PRODUCTS:
            left, right = args[-2], args[-1]
            if self._is_weight(left) and isinstance(right, Tensor) and left.shape[-1] == right.shape[-2]:
                self._record(left)
        elif name in SAME_WEIGHTS and any(self._is_weight(each) for each in args):
            for each in out if isinstance(out, tuple | list) else (out,):
                self._hold(each)
        return out

    def _higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func.name() != "flex_attention":
            return func(*args, **kwargs)
        from torch._higher_order_ops.flex_attention import math_attention

        with self:
            return math_attention(*args, **kwargs)

    def _softmax(self, args: tuple[Any, ...], out: Tensor) -> None:
        # Over queries, the other axis of the scores, is a mistake worth reading too.
        over_scores = args[1] % max(1, out.dim()) >= out.dim() - 2
        if over_scores and out.dim() >= 3 and out.shape[-1] > 1:
            self._hold(out)

    def _hold(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.device.type != "meta":
            self._weights[tensor.untyped_storage().data_ptr()] = tensor

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self._weights

    def _record(self, weights: Tensor) -> None:
        queries, keys = weights.shape[-2:]
        flat = weights.detach().reshape(-1, queries, keys)
        if flat.shape[0] % self.rows:
            return  # rows of a batch are not apart here: a mixture of experts, or windows over several rows
        held = flat.reshape(self.rows, -1, queries, keys).float().cpu().clone()
        if bool((held < 0).any()):
            return  # a gate's softmax times what it gates
        self.maps.append(AttentionMap(self.path[-1] if self.path else "", held))


@contextmanager
def written_out() -> Iterator[None]:
    """Attention as softmax and product, and nothing compiled, for the length of the block."""
    from torch.nn.attention import flex_attention

    compiled = flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG
    flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    try:
        with without_fast_path(), sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = compiled


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Torch's attention layers as they are written, for the length of the block."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
