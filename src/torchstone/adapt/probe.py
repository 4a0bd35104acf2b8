"""Look at a model while it runs, and leave no trace: quiet runs, and which operation consumes an input.

A probe is a forward pass in evaluation mode without gradients, with every generator, buffer and mode put back
afterwards. `watch` follows a tensor through reshapes and casts to the first operation that computes
with it: an embedding table (these are ids), a convolution (pixels or audio), a product (embeddings).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchstone._seeds import preserved_rng
from torchstone.adapt.signature import Signature

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


class Watch(TorchFunctionMode):
    """Record the first operations that compute with `tensors` (name -> tensor)."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.consumers: dict[str, list[Consumer]] = {name: [] for name in tensors}
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        # Keeps watched tensors alive, so that their ids are not given to others.
        self._alive: list[Any] = list(tensors.values())

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
        result = func(*args, **kwargs)
        if touched and index is None and (called in _CARRIERS or called == "__getitem__"):
            self._follow(self._names[id(touched[0])], result)
        return result

    def _record(self, tensor: Tensor, consumer: Consumer) -> None:
        self.consumers[self._names[id(tensor)]].append(consumer)

    def _follow(self, name: str, result: Any) -> None:
        for each in _flat(result):
            self._names.setdefault(id(each), name)
            self._alive.append(each)


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


def watch(
    module: nn.Module, tensors: dict[str, Tensor], call: Callable[[], Any]
) -> tuple[dict[str, list[Consumer]], Any]:
    """Run `call` quietly; the consumers of each tensor, and the result or the refusal."""
    mode = Watch(tensors)
    with quiet(module):
        try:
            with mode:
                result = call()
        except REFUSALS as refusal:
            result = refusal
    return mode.consumers, result


def place_by_probing(module: nn.Module, signature: Signature) -> Signature:
    """Give a lone required unknown argument the role that the operation consuming it shows."""
    unknown = [each for each in signature.arguments if each.role == "unknown" and each.required]
    main = [each for each in signature.required if each.role in ("ids", "embeddings", "pixels", "audio")]
    if len(unknown) != 1 or main or any(each.required for each in signature.of_role("intermediate")):
        return signature
    argument = unknown[0]
    others = [each for each in signature.required if each is not argument]
    if others:
        return signature
    seen = _first_consumer(module, argument.name, argument.kind == "keyword-only")
    if seen is None:
        return signature
    role = _role_of(seen)
    if role is None:
        return signature
    found = replace(argument, role=role, why=f"probing: {seen.operation} consumes it")
    return Signature(
        tuple(found if each is argument else each for each in signature.arguments),
        signature.accepts_any_keyword,
    )


def _role_of(consumer: Consumer) -> str | None:
    if consumer.operation in ("embedding", "index", "embedding_bag", "one_hot"):
        return "ids"
    return {"conv2d": "pixels", "conv3d": "pixels", "conv1d": "audio"}.get(consumer.operation, "embeddings")


def _first_consumer(module: nn.Module, name: str, by_keyword: bool) -> Consumer | None:
    """Offer ids, then images, then vectors, until an operation with a weight takes one."""
    width = next((each.in_features for each in module.modules() if isinstance(each, nn.Linear)), 8)
    channels = next((each.in_channels for each in module.modules() if isinstance(each, nn.Conv2d)), 3)
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    offers = [
        torch.zeros(1, 4, dtype=torch.long, device=device),
        torch.zeros(1, channels, 32, 32, device=device),
        torch.zeros(1, 4, width, device=device),
        torch.zeros(1, width, device=device),
    ]
    weak = None
    for offer in offers:
        call = (
            (lambda offer=offer: module(**{name: offer}))
            if by_keyword
            else (lambda offer=offer: module(offer))
        )
        consumers, result = watch(module, {name: offer}, call)
        for consumer in consumers[name]:
            if consumer.operation in (
                "embedding",
                "index",
                "conv1d",
                "conv2d",
                "conv3d",
                "linear",
                "one_hot",
            ):
                if offer.dtype == torch.long and consumer.operation not in ("embedding", "index", "one_hot"):
                    break
                return consumer
            if offer.is_floating_point() and not isinstance(result, Exception):
                weak = weak or consumer
    return weak
