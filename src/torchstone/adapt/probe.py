"""Look at a model while it runs, and leave no trace: quiet runs, and which operation consumes an input.

A probe is a forward pass in evaluation mode without gradients, with every generator, buffer and mode put back
afterwards. `watch` follows a tensor through reshapes and casts to the first operation that computes
with it: an embedding table (these are ids), a convolution (pixels or audio), a product (embeddings).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchstone._seeds import preserved_rng

REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
"""What a model raises when it does not like its input (NotImplementedError is a RuntimeError)."""


@contextmanager
def quiet(module: nn.Module, seed: int = 0) -> Iterator[None]:
    """Evaluation mode, no gradients, no warnings; modes, buffers and generators come back as they were."""
    modes = [(each, each.training) for each in module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if buffer.numel() <= 1 << 20]
    with preserved_rng(seed), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module.eval()
            yield
        finally:
            for each, training in modes:
                each.training = training
            for buffer, before in buffers:
                if buffer.shape == before.shape and not _same(buffer, before):
                    buffer.copy_(before)


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(a, b)) or (
        a.is_floating_point() and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
    )


@dataclass(frozen=True)
class Consumer:
    """The first operation that computed with a watched tensor."""

    operation: str
    """"embedding", "index", "linear", "conv1d", "conv2d", "conv3d" or the function's own name."""
    weight: Tensor | None
    tensor: Tensor
    """The watched tensor as it arrived, after reshapes and casts."""

    @property
    def rows(self) -> int | None:
        return None if self.weight is None else int(self.weight.shape[0])


_CARRIERS = frozenset(
    (
        *(
            "view",
            "reshape",
            "permute",
            "transpose",
            "to",
            "long",
            "int",
            "float",
            "half",
            "bfloat16",
            "type",
        ),
        *(
            "contiguous",
            "clone",
            "detach",
            "unsqueeze",
            "squeeze",
            "flatten",
            "expand",
            "unflatten",
            "t",
            "T",
        ),
        *("cuda", "cpu", "type_as", "expand_as", "view_as", "swapaxes", "movedim", "chunk", "split", "stack"),
        *("cat", "masked_fill", "where", "clamp", "clamp_min", "clamp_max", "pad"),
    )
)
_QUESTIONS = frozenset(
    (
        *(
            "size",
            "dim",
            "numel",
            "shape",
            "device",
            "dtype",
            "__get__",
            "is_floating_point",
            "ndim",
            "stride",
        ),
        *("__len__", "eq", "ne", "gt", "lt", "ge", "le", "__eq__", "__ne__", "__gt__", "__lt__", "__ge__"),
        *("__le__", "__bool__", "__hash__", "__repr__", "__format__", "__contains__", "any", "all", "max"),
        *("min", "equal", "isnan", "isinf", "item", "tolist", "is_contiguous", "requires_grad", "is_cuda"),
        *("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like", "empty_like"),
        *("sum", "cumsum", "argmax", "nonzero", "element_size", "layout", "data_ptr", "storage_offset"),
        *("untyped_storage", "is_complex"),
    )
)


@dataclass
class Sight:
    """What was seen in one run."""

    consumers: dict[str, list[Consumer]] = field(default_factory=dict)
    position_limits: list[int] = field(default_factory=list)
    """Rows that tables indexed by position have left for tokens."""
    causal_attention: bool = False

    def table(self, name: str) -> Consumer | None:
        """The table that the input `name` indexes."""
        found = self.consumers.get(name, [])
        return next((each for each in found if each.operation in ("embedding", "index")), None)

    def table_rows(self, name: str) -> int | None:
        table = self.table(name)
        return None if table is None else table.rows


class Watch(TorchFunctionMode):
    """Record the first operations that compute with `tensors` (name -> tensor)."""

    def __init__(self, tensors: dict[str, Tensor], module: nn.Module) -> None:
        super().__init__()
        self.sight = Sight({name: [] for name in tensors})
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        # Keeps watched tensors alive, so that their ids are not given to others.
        self._alive: list[Any] = list(tensors.values())
        self._kept = {id(each) for each in (*module.parameters(), *module.buffers())}
        lengths = {
            each.shape[1] for each in tensors.values() if each.dim() == 2 and not each.is_floating_point()
        }
        self._length = lengths.pop() if len(lengths) == 1 else None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        called = str(getattr(func, "__name__", func))
        touched = [
            each
            for each in (*args[:4], *kwargs.values())
            if isinstance(each, Tensor) and id(each) in self._names
        ]
        index = None
        if called == "__getitem__" and len(args) == 2:
            index = next((each for each in _flat(args[1]) if id(each) in self._names), None)
        if called in ("stack", "cat", "concat") and args:
            touched += [each for each in _flat(args[0]) if id(each) in self._names]
        if index is not None:
            self._record(index, Consumer("index", args[0], index))
        elif touched and called not in _CARRIERS and called not in _QUESTIONS and called != "__getitem__":
            self._record(touched[0], _consumer(called, touched[0], args, kwargs))
        if not touched and index is None:
            self._see_positions(called, args, kwargs)
        result = func(*args, **kwargs)
        self._see_attention(called, args, kwargs, result)
        if touched and index is None and (called in _CARRIERS or called == "__getitem__"):
            self._follow(self._names[id(touched[0])], result)
        return result

    def _record(self, tensor: Tensor, consumer: Consumer) -> None:
        self.sight.consumers[self._names[id(tensor)]].append(consumer)

    def _follow(self, name: str, result: Any) -> None:
        for each in _flat(result):
            self._names.setdefault(id(each), name)
            self._alive.append(each)

    def _see_positions(self, called: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A table read at 0, 1, 2 ... or sliced to the length of the input ends where its rows end."""
        length = self._length
        if length is None or length < 3:
            return
        if called == "embedding" and len(args) >= 2 and isinstance(args[1], Tensor):
            self._see_table(args[0], int(args[1].shape[0]))
        elif called == "__getitem__" and len(args) == 2 and id(args[0]) in self._kept:
            wanted = args[1] if isinstance(args[1], tuple) else (args[1],)
            if isinstance(wanted[0], Tensor):
                self._see_table(wanted[0], int(args[0].shape[0]))
            sliced = [each for each in wanted if each is not Ellipsis]
            offset = args[0].dim() - len(sliced) if Ellipsis in [e for e in wanted if e is Ellipsis] else 0
            for place, each in enumerate(sliced):
                is_cut = isinstance(each, slice) and each.stop == length and each.start in (None, 0)
                if is_cut and place + offset < args[0].dim() and args[0].shape[place + offset] > length:
                    self.sight.position_limits.append(int(args[0].shape[place + offset]))

    def _see_table(self, index: Any, rows: int) -> None:
        if not isinstance(index, Tensor) or index.is_floating_point() or index.numel() == 0:
            return
        row = index.reshape(-1, index.shape[-1])[0] if index.dim() else index
        if row.numel() != self._length or index.dim() > 2:
            return
        first = int(row[0])
        if bool((row == torch.arange(first, first + row.numel(), device=row.device)).all()) and first >= 0:
            self.sight.position_limits.append(rows - first)

    def _see_attention(self, called: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if self.sight.causal_attention:
            return
        if called == "scaled_dot_product_attention":
            mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            causal = bool(kwargs.get("is_causal", args[5] if len(args) > 5 else False))
            self.sight.causal_attention = causal or (isinstance(mask, Tensor) and _hides_later(mask))
        elif called == "softmax" and isinstance(result, Tensor) and result.dim() >= 3:
            square = result.shape[-1] == result.shape[-2] > 2
            self.sight.causal_attention = square and not bool(result.triu(1).any())
        elif called == "multi_head_attention_forward":
            mask = kwargs.get("attn_mask")
            self.sight.causal_attention = isinstance(mask, Tensor) and _hides_later(mask)


def _hides_later(mask: Tensor) -> bool:
    """Whether a mask, of either kind, treats all later positions alike and unlike the earlier ones."""
    if mask.dim() < 2 or mask.shape[-1] != mask.shape[-2] or mask.shape[-1] < 3:
        return False
    later = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).triu(1)
    square = mask.reshape(-1, *mask.shape[-2:])[0]
    if square.dtype == torch.bool:
        return bool((square == later).all() or (square == ~later).all())
    return bool((square[later] < -1e3).all() and (square[~later] > -1e3).all())


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [each for part in value for each in _flat(part)]
    return []


def _consumer(called: str, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Consumer:
    others = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor) and each is not tensor]
    if called == "embedding":
        return Consumer("embedding", kwargs.get("weight", others[0] if others else None), tensor)
    return Consumer(called, others[0] if others else None, tensor)


def watch(module: nn.Module, tensors: dict[str, Tensor], call: Callable[[], Any]) -> tuple[Sight, Any]:
    """Run `call` quietly; what was seen of each tensor, and the result or the refusal."""
    mode = Watch(tensors, module)
    with quiet(module):
        try:
            with mode:
                result = call()
        except REFUSALS as refusal:
            result = refusal
    return mode.sight, result
