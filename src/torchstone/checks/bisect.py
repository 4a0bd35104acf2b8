"""Find the guilty module: the innermost one whose inputs agree in two runs while its outputs do not.

Two runs of one model are recorded by hooks. A *view* says which part of a tensor must agree (the past, my
row, everything); tensors in which a view finds no such part are ignored. No module is changed, no hook stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.checks.keep import tensors_of

View = Callable[[Tensor, bool], "list[Tensor]"]
"""`view(tensor, is_input)`: the parts that must agree; an empty list if this tensor says nothing."""


@dataclass
class _Call:
    """One call of one module: what went in, what came out, and who called it."""

    name: str
    parent: int
    inputs: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Guilty:
    """The module where two runs part, and by how much."""

    name: str
    kind: str
    module: nn.Module
    difference: float


def find_guilty(
    module: nn.Module,
    run_clean: Callable[[], Any],
    run_changed: Callable[[], Any],
    view: View,
    relative_limit: float,
    prepare: Callable[[], Any] = lambda: None,
    same_shapes: bool = True,
) -> Guilty | None:
    """The first module, innermost, that turns agreeing inputs into disagreeing outputs, if any.

    `prepare` runs before each pass, while no hook is on. Where the passes have tensors of different shapes on
    purpose, `same_shapes=False` leaves all comparison to `view`.
    """
    prepare()
    clean = _record(module, run_clean)
    prepare()
    changed = _record(module, run_changed)
    return _judge(module, clean, changed, view, relative_limit, same_shapes)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite where only one of the two is NaN, or shapes differ."""
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return float((a != b).any())
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))
    gap = torch.where(same, torch.zeros((), dtype=a.dtype, device=a.device), a - b).abs()
    worst = float(gap.max())
    return math.inf if math.isnan(worst) else worst


def scale_of(tensor: Tensor) -> float:
    """Largest finite magnitude, to which a difference is compared."""
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return 1.0
    magnitude = tensor.abs()
    finite = magnitude[torch.isfinite(magnitude)]
    return float(finite.max()) if finite.numel() else 1.0


def past_view(cut: int, rows: int, length: int) -> View:
    """Positions before `cut` of tensors that have a token axis of `length`, or `rows * length` flattened."""

    def view(tensor: Tensor, is_input: bool) -> list[Tensor]:
        axes = [axis for axis, size in enumerate(tensor.shape) if size == length]
        if axes:
            part = tensor.narrow(axes[0], 0, cut)
            # Scores (T, T): inputs must agree as whole rows, outputs only where they look at the past.
            if len(axes) > 1 and not is_input:
                part = part.narrow(axes[1], 0, cut)
            return [part]
        if rows > 1 and tensor.dim() and tensor.shape[0] == rows * length:
            # Flattened (B T) or (T B); the reading that agrees is the right one.
            batch_first = tensor.reshape(rows, length, *tensor.shape[1:]).narrow(1, 0, cut)
            time_first = tensor.reshape(length, rows, *tensor.shape[1:]).narrow(0, 0, cut)
            return [batch_first, time_first]
        return [tensor] if is_input else []

    return view


def row_view(row: int, rows: int, length: int | None) -> View:
    """My row of tensors that have a batch axis of `rows` (first or second), or are flattened."""

    def view(tensor: Tensor, is_input: bool) -> list[Tensor]:
        for axis in (0, 1):
            if tensor.dim() > axis and tensor.shape[axis] == rows:
                return [tensor.select(axis, row)]
        if length and tensor.dim() and tensor.shape[0] == rows * length:
            return [
                tensor.reshape(rows, length, *tensor.shape[1:])[row],
                tensor.reshape(length, rows, *tensor.shape[1:])[:, row],
            ]
        if tensor.dim() and tensor.shape[0] and tensor.shape[0] % rows == 0:
            # Heads or windows folded into the batch: (B H, T, D).
            return [tensor.reshape(rows, -1, *tensor.shape[1:])[row]]
        return [tensor] if is_input else []

    return view


def whole_view(tensor: Tensor, is_input: bool) -> list[Tensor]:
    """Everything must agree."""
    return [tensor]


def _record(module: nn.Module, run: Callable[[], Any]) -> list[_Call]:
    calls: list[_Call] = []
    with _recording(module, calls):
        run()
    return calls


@contextmanager
def _recording(module: nn.Module, calls: list[_Call]) -> Iterator[None]:
    stack: list[int] = []
    handles = []

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            calls.append(_Call(name, stack[-1] if stack else -1, _copies((args, kwargs))))
            stack.append(len(calls) - 1)

        return hook

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls[stack.pop()].outputs = _copies((output,))

    try:
        for name, each in module.named_modules():
            handles.append(each.register_forward_pre_hook(before(name), with_kwargs=True, prepend=True))
            handles.append(each.register_forward_hook(after, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _copies(values: Any) -> list[Tensor]:
    # In-place operations (x += ...) would change what was recorded.
    return [each.detach().clone() for each in tensors_of(values)]


def _judge(
    module: nn.Module,
    clean: list[_Call],
    changed: list[_Call],
    view: View,
    relative_limit: float,
    same_shapes: bool,
) -> Guilty | None:
    modules = dict(module.named_modules())
    suspects: dict[int, float] = {}
    for place, pair in _pairs(clean, changed):
        if _agree(pair[0].inputs, pair[1].inputs, view, True, relative_limit, same_shapes)[0]:
            same, gap = _agree(pair[0].outputs, pair[1].outputs, view, False, relative_limit, same_shapes)
            if not same:
                suspects[place] = gap
    # Every caller of a guilty module looks guilty too; the innermost is meant.
    outer = set()
    for place in suspects:
        above = clean[place].parent
        while above >= 0:
            outer.add(above)
            above = clean[above].parent
    inner = [place for place in suspects if place not in outer]
    if not inner:
        return None
    call = clean[min(inner)]
    guilty = modules[call.name]
    return Guilty(call.name or type(guilty).__name__, type(guilty).__name__, guilty, suspects[min(inner)])


def _pairs(clean: list[_Call], changed: list[_Call]) -> Iterator[tuple[int, tuple[_Call, _Call]]]:
    """The n-th call of a module in both runs; a run on another route is compared as far as it goes."""
    later: dict[tuple[str, int], _Call] = {}
    counts: dict[str, int] = {}
    for call in changed:
        later[(call.name, counts.get(call.name, 0))] = call
        counts[call.name] = counts.get(call.name, 0) + 1
    counts.clear()
    for place, call in enumerate(clean):
        key = (call.name, counts.get(call.name, 0))
        counts[call.name] = key[1] + 1
        if key in later:
            yield place, (call, later[key])


def _agree(
    clean: list[Tensor],
    changed: list[Tensor],
    view: View,
    is_input: bool,
    relative_limit: float,
    same_shapes: bool,
) -> tuple[bool, float]:
    worst = 0.0
    if not same_shapes:
        mine = [part for each in clean for part in view(each, is_input)]
        theirs = [part for each in changed for part in view(each, is_input)]
        return _close(mine, theirs, relative_limit)
    if len(clean) != len(changed):
        return not is_input, 0.0
    for a, b in zip(clean, changed, strict=True):
        if a.shape != b.shape:
            # A data-dependent shape (tokens routed to an expert) says nothing about an output.
            if is_input:
                return False, math.inf
            continue
        readings = list(zip(view(a, is_input), view(b, is_input), strict=True))
        if not readings:
            continue
        gap = min(difference(mine, other) for mine, other in readings)
        if gap > relative_limit * max(scale_of(a), 1e-30):
            worst = max(worst, gap)
    return worst == 0.0, worst


def _close(mine: list[Tensor], theirs: list[Tensor], relative_limit: float) -> tuple[bool, float]:
    """Parts in order, as many as both have."""
    worst = 0.0
    for a, b in zip(mine, theirs, strict=False):
        gap = difference(a, b)
        if gap > relative_limit * max(scale_of(a), 1e-30):
            worst = max(worst, gap)
    return worst == 0.0, worst
