"""An arm's model at its full size, on the meta device: shapes without memory, operations without work."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from torchstone.adapt.load import LoadedModel


@dataclass(frozen=True, kw_only=True)
class FullSize:
    """What is known of the full model without building it in memory."""

    config: Mapping[str, Any]
    """What the model says of itself."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter, tied ones under their first name."""
    parameters: int
    flops: int | None
    """Of one forward pass over one sequence; None: the model takes no ids, or cannot run without values."""
    kv_bytes_per_token: int | float | None
    """What a cache holds for a whole sequence, shared over its tokens, in the weights' own format."""
    weight_bytes: int
    note: str = ""


@contextmanager
def without_memory() -> Iterator[None]:
    """Models that are built in the block have shapes only."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Nothing is drawn for parameters without values: torch does that in Python, at length."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


_DRAWS = (Tensor.normal_, Tensor.uniform_)
Operations = dict[Any, tuple[Any, int]]
"""Operation and shapes that it takes -> tensors like its result, and its FLOPs."""


def measure_full_size(loaded: LoadedModel, length: int, known: Operations | None = None) -> FullSize:
    """Measure a model that was built `without_memory`, over one sequence of `length` tokens.

    `known` is filled, and spares work where the next model has layers of the same shapes.
    """
    module = loaded.module.eval()
    named = dict(module.named_parameters())
    flops, kept, note = _forward(module, length, {} if known is None else known)
    return FullSize(
        config=loaded.config,
        shapes={name: tuple(each.shape) for name, each in named.items()},
        parameters=sum(each.numel() for each in named.values()),
        flops=flops,
        kv_bytes_per_token=kept,
        weight_bytes=sum(each.numel() * each.element_size() for each in named.values()),
        note=note,
    )


def _forward(module: nn.Module, length: int, known: Operations) -> tuple[int | None, int | float | None, str]:
    takes = inspect.signature(module.forward).parameters
    if "input_ids" not in takes:
        return None, None, "the model takes no input_ids"
    asks = {"use_cache": True} if "use_cache" in takes else {}
    device = next(module.parameters()).device
    ids = torch.zeros(1, length, dtype=torch.long, device=device)
    try:
        with torch.device("meta"), _FlopCounter(known) as counter, torch.no_grad():
            output = module(input_ids=ids, **asks)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return None, None, f"it cannot run without values: {error}".splitlines()[0]
    cache = getattr(output, "past_key_values", None)
    total = sum(each.numel() * each.element_size() for each in _distinct(_tensors(cache)))
    per_token: int | float | None = None
    if cache is not None:
        per_token = total // length if total % length == 0 else total / length
    return counter.total, per_token, ""


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """torch's own formulas; what an operation makes of the same shapes is worked out once.

    Shapes on the meta device are found in Python, which for a deep model takes longer than anything else.
    """

    def __init__(self, known: Operations) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self._known = known
        self._is_pure: dict[Any, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        key = (func, _shapes(args), _shapes(tuple(kwargs.items()))) if self._pure(func) else None
        if key in self._known:
            like, flops = self._known[key]
            self.total += flops
            return _like(like)
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        flops = int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0
        self.total += flops
        if key is not None and all(isinstance(each, Tensor) and each.is_meta for each in _several(out)):
            self._known[key] = out, flops
        return out

    def _pure(self, func: Any) -> bool:
        """Whether an operation makes a new tensor and touches none."""
        if func not in self._is_pure:
            fresh = all(each.alias_info is None for each in func._schema.returns)
            self._is_pure[func] = fresh and not func.is_view and not func._schema.is_mutable
        return self._is_pure[func]


def _several(out: Any) -> Sequence[Any]:
    return out if isinstance(out, tuple | list) else (out,)


def _like(out: Any) -> Any:
    """New tensors of the same shapes."""
    if isinstance(out, tuple | list):
        return type(out)(map(_like, out))
    return torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=out.device)


def _shapes(value: Any) -> Any:
    """What the shape of a result can depend on, as a key."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(map(_shapes, value))
    return value


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each piece of memory once, however many names a cache has for it."""
    found: dict[tuple[Any, ...], Tensor] = {}
    for each in tensors:
        place = (each.untyped_storage()._cdata, each.storage_offset(), tuple(each.shape), each.stride())
        found.setdefault(place, each)
    return list(found.values())
