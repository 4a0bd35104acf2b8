"""Find the module that one way computes otherwise: each is run alone, on the same inputs, both ways.

Following a whole pass does not tell: behind the first difference every module differs. So the inputs of each
call are kept from one reference pass, and a module is judged by what it makes of them by itself, answers and
gradients. From the model down, the child that is furthest off is entered, as long as one is off at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from torchstone._seeds import seed_everything
from torchstone.checks.course import relative
from torchstone.checks.keep import tensors_of
from torchstone.checks.ways import REFERENCE, Unavailable, Way

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context


@dataclass
class Call:
    """One call of one module in the reference pass."""

    name: str
    module: nn.Module
    parent: int
    given: tuple[tuple[Any, ...], dict[str, Any]] | None
    """Copies of what it got; None where that cannot be copied."""


def guilty_module(context: Context, batch: Batch, way: Way, limit: float) -> str | None:
    """Dotted name of the innermost module that alone is further than `limit` off; None: none is."""
    calls = _calls(context, batch)
    here, found = 0, None
    while True:
        below = [place for place, call in enumerate(calls) if call.parent == here and place]
        off = {place: _off(context, calls[place], way) for place in below}
        worst = max(off, key=lambda place: off[place], default=None)
        if worst is None or not off[worst] > limit:
            return found
        here, found = worst, calls[worst].name


def _calls(context: Context, batch: Batch) -> list[Call]:
    calls: list[Call] = []
    stack: list[int] = []
    handles = []

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls.append(Call(name, module, stack[-1] if stack else -1, _copied((args, kwargs))))
            stack.append(len(calls) - 1)

        return hook

    def after(*_: Any) -> None:
        stack.pop()

    try:
        for name, each in context.module.named_modules():
            handles.append(each.register_forward_pre_hook(before(name), with_kwargs=True, prepend=True))
            handles.append(each.register_forward_hook(after, always_call=True))
        with REFERENCE.taken(context.module):
            context.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
        context.state.restore()
    return calls


def _copied(given: Any) -> Any:
    try:
        return copy.deepcopy(given)
    except Exception:  # whatever a stranger's object raises when it is copied
        return None


def _off(context: Context, call: Call, way: Way) -> float:
    """How far one call is off by itself; 0.0 where it cannot be repeated."""
    try:
        wanted = _repeat(context, call, REFERENCE, way.learns)
        context.state.restore()
        found = _repeat(context, call, way, way.learns)
    except (Unavailable, RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return 0.0
    finally:
        context.state.restore()
    if len(found) != len(wanted):
        return torch.inf
    return max((relative(one, other) for one, other in zip(found, wanted, strict=True)), default=0.0)


def _repeat(context: Context, call: Call, way: Way, learns: bool) -> list[Tensor]:
    """Answers of the call, and gradients of their sum with drawn weights."""
    args, kwargs = tree_map(lambda each: _leaf(each, learns), _copied(call.given))
    seed_everything(context.seed)
    with way.taken(call.module), nullcontext() if learns else torch.no_grad():
        answers = [each for each in tensors_of([call.module(*args, **kwargs)]) if each.is_floating_point()]
        sound = [each.detach().double() for each in answers]
        roots = [each for each in answers if each.requires_grad]
        if not learns or not roots:
            return sound
        leaves = [each for each in tensors_of([args, kwargs]) if each.requires_grad and each.is_leaf]
        leaves += [each for each in call.module.parameters() if each.requires_grad]
        generator = torch.Generator().manual_seed(context.seed)
        weights = [torch.randn(each.shape, generator=generator).to(each) for each in roots]
        gradients = torch.autograd.grad(roots, leaves, weights, allow_unused=True)
    norms = sum(float(each.square().sum()) for each in gradients if each is not None) ** 0.5
    # One vector: a gradient that is nothing but rounding beside the others must not decide.
    whole = [each.detach().double().flatten() for each in gradients if each is not None]
    return [*sound, torch.cat(whole)] if norms else sound


def _leaf(value: Any, learns: bool) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and learns:
        return value.detach().requires_grad_()
    return value
