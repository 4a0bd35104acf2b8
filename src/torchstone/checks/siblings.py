"""Is looking ahead this model's design, or the fault of one layer?

An encoder looks ahead in all its layers; a decoder with a forgotten mask in some. The layers of the guilty
module's class are called again, each with its own inputs of which only the future is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.checks.bisect import Guilty, difference, scale_of
from torchstone.checks.keep import tensors_of

if TYPE_CHECKING:
    from torchstone.checks.probe import Probe
    from torchstone.checks.streams import Stream


def some_siblings_keep_the_past(probe: Probe, stream: Stream, cut: int, guilty: Guilty) -> bool:
    """Whether a module of the guilty one's class maps equal pasts to equal pasts."""
    siblings = [
        each
        for each in probe.context.module.modules()
        if type(each) is type(guilty.module) and each is not guilty.module
    ]
    inputs = _inputs_of(probe, siblings, stream.batch)
    return any(_keeps(probe, stream, each, *inputs[each], max(cut, 1)) for each in siblings if each in inputs)


def _inputs_of(probe: Probe, modules: list[nn.Module], batch: Any) -> dict[nn.Module, tuple[Any, Any]]:
    caught: dict[nn.Module, tuple[Any, Any]] = {}

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        caught.setdefault(module, (args, kwargs))

    handles = [each.register_forward_pre_hook(hook, with_kwargs=True) for each in modules]
    try:
        probe.run(batch, fresh=False)
    finally:
        for handle in handles:
            handle.remove()
    return caught


def _keeps(probe: Probe, stream: Stream, module: nn.Module, args: Any, kwargs: Any, cut: int) -> bool:
    view = stream.view(cut)

    def disturb(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 3:
            axes = [axis for axis, size in enumerate(value.shape) if size == stream.length]
            if len(axes) == 1:
                changed = value.clone()
                later = changed.narrow(axes[0], cut, stream.length - cut)
                later += (
                    torch.linspace(-1, 1, later.numel(), dtype=value.dtype).to(value.device).view_as(later)
                )
                return changed
        return value

    with torch.no_grad():
        try:
            first = tensors_of([module(*args, **kwargs)])
            second = tensors_of(
                [
                    module(
                        *[disturb(each) for each in args],
                        **{name: disturb(each) for name, each in kwargs.items()},
                    )
                ]
            )
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
    compared = False
    reacted = False
    for a, b in zip(first, second, strict=False):
        for mine, other in zip(view(a, False), view(b, False), strict=False):
            compared = True
            if difference(mine, other) > probe.relative_limit * max(scale_of(a), 1e-12):
                return False
        reacted = reacted or difference(a, b) > 0
    return compared and reacted
