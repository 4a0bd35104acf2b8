"""The repeated stack of a model: sibling modules of one class that do the deep work, and what they put out.

Found by structure (numbered children of equal class) and confirmed by a run: in a stack the siblings run one
after the other on states of one shape. Experts of a mixture are siblings too, but run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Siblings:
    """Modules of one class under one parent."""

    name: str
    """Dotted name of the parent."""
    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]


def sibling_groups(module: nn.Module) -> list[Siblings]:
    """Groups of at least two numbered children that are built alike, in their own order."""
    groups = []
    for path, parent in module.named_modules():
        kinds: list[list[tuple[str, nn.Module]]] = []
        for own_name, child in parent.named_children():
            if not _is_numbered(own_name) or next(child.parameters(), None) is None:
                continue
            like = next((each for each in kinds if _alike(each[0][1], child)), None)
            if like is None:
                kinds.append([(own_name, child)])
            else:
                like.append((own_name, child))
        for members in kinds:
            if len(members) > 1:
                names = tuple(f"{path}.{own}" if path else own for own, _ in members)
                groups.append(Siblings(path, names, tuple(child for _, child in members)))
    return groups


def _alike(first: nn.Module, second: nn.Module) -> bool:
    """One class, or the same parameters by name (a subclass that changes `forward`)."""
    if type(first) is type(second):
        return True
    names = [[name for name, _ in each.named_parameters()] for each in (first, second)]
    return len(names[0]) > 2 and names[0] == names[1]


def _is_numbered(name: str) -> bool:
    """`3` in a list, `layer_3` or `block12` where a builder numbered attributes instead."""
    return name.rstrip("0123456789") != name


@dataclass
class Trace:
    """Order and outputs of hooked modules in one run."""

    keeps_shape: set[str] = field(default_factory=set)
    """Modules whose answer has the shape of their first input."""

    calls: list[str] = field(default_factory=list)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def last(self, name: str) -> Tensor | None:
        found = self.outputs.get(name)
        return found[-1] if found else None


def state_of(value: Any) -> Tensor | None:
    """The state that a block hands on: its first floating tensor."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() or value.is_complex() else None
    if isinstance(value, (tuple, list)):
        items: Any = value
    elif isinstance(value, dict):
        items = value.values()
    elif hasattr(value, "__dict__"):
        items = vars(value).values()
    else:
        return None
    return next((each for each in map(state_of, items) if each is not None), None)


@contextmanager
def traced(modules: dict[str, nn.Module], keep: Callable[[Tensor], Tensor] | None = None) -> Iterator[Trace]:
    """Hooks on `modules` (by name) for the length of the block; with `keep`, what it makes of each state is
    kept.
    """
    trace = Trace()
    handles: list[RemovableHandle] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            trace.calls.append(name)
            state = state_of(output) if keep is not None else None
            given = state_of(args) if args else state_of(kwargs)
            if state is not None and given is not None and given.shape == state.shape:
                trace.keeps_shape.add(name)
            if keep is not None and state is not None:
                trace.outputs.setdefault(name, []).append(keep(state))

        return hook

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(watch(name), with_kwargs=True))
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def deep_stacks(groups: list[Siblings], trace: Trace) -> list[Siblings]:
    """Groups whose members ran once each, in order, on states of one shape; the largest first, none nested.

    A member may have been left out: that is what dead-parameters looks for.
    """
    found = []
    for group in groups:
        calls = [name for name in trace.calls if name in group.names]
        if not calls or calls != [name for name in group.names if name in calls]:
            continue
        states = [trace.last(name) for name in calls]
        shapes = {tuple(state.shape) for state in states if state is not None}
        whole = len(shapes) == 1 and None not in states and set(calls) <= trace.keeps_shape
        # Two or three bare maps in a row are a small network inside something, not the depth of the model.
        if whole and (len(group.names) > 3 or any(True for _ in group.modules[0].children())):
            found.append(group)
    outer = [each for each in found if not any(_inside(each, other) for other in found)]
    return sorted(outer, key=lambda each: -sum(p.numel() for m in each.modules for p in m.parameters()))


def _inside(inner: Siblings, outer: Siblings) -> bool:
    return inner is not outer and any(
        inner.name == name or inner.name.startswith(f"{name}.") for name in outer.names
    )


def stacks_of(module: nn.Module, run: Callable[[], Any]) -> list[Siblings]:
    """The deep stacks that `run` goes through."""
    groups = sibling_groups(module)
    members = {name: each for group in groups for name, each in zip(group.names, group.modules, strict=True)}
    with traced(members, keep=torch.detach) as trace:
        run()
    return deep_stacks(groups, trace)
