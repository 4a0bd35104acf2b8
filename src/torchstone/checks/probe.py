"""Forward passes that can be compared to the last digit: same random state, same memory, double precision.

In float64 a leak and a rounding error are many orders of magnitude apart. The model itself is converted in
place (with its closures and ties) and put back; where it cannot run in float64, limits are wider.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchstone._seeds import seed_everything
from torchstone.checks.alter import replaced
from torchstone.checks.bisect import difference, find_guilty, scale_of
from torchstone.checks.keep import Kept

if TYPE_CHECKING:
    from torchstone.adapt.output import Output
    from torchstone.checks.bisect import Guilty, View
    from torchstone.checks.context import Batch, Context

_EXACT = 1e-9
"""Relative limit in float64: a million times the rounding error, far below any leak that matters."""
_ROUGH = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
_RESHAPED = 20
"""Another shape means other kernels, which round otherwise; below float64 this shows."""
_LOW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Probe:
    """What a leak check works with inside `with probing(context) as probe`."""

    context: Context
    exact: bool
    """Whether the whole pass runs in float64."""
    stateful: bool = False
    """Whether a forward pass changes the module; then each probe starts from the first state."""
    random: bool = False
    """Whether the random state shows in the output although the model is in evaluation mode."""
    relative_limit: float = _EXACT

    def run(self, batch: Batch, seed: int = 0, grad: bool = False, fresh: bool = True) -> Output:
        """One pass in evaluation mode; `fresh` forgets what earlier passes left behind."""
        context = self.context
        if fresh and self.stateful:
            context.state.restore()
        with torch.set_grad_enabled(grad):
            seed_everything(context.seed + seed)
            return context.adapter(**(_in_double(batch) if self.exact else batch))

    def main(self, batch: Batch, seed: int = 0, fresh: bool = True) -> Tensor:
        return self.run(batch, seed=seed, fresh=fresh).main.detach()

    def limit(self, reference: Tensor, reshaped: bool = False) -> float:
        """Absolute limit for a difference from `reference`; `reshaped`: the other pass had another shape."""
        wider = _RESHAPED if reshaped and not self.exact else 1
        return self.relative_limit * wider * max(scale_of(reference), 1e-12)

    def guilty(self, clean: Batch, changed: Batch, view: View) -> Guilty | None:
        """The module where the pass of `changed` parts from the pass of `clean`."""
        return find_guilty(
            self.context.module,
            lambda: self.run(clean, fresh=False),
            lambda: self.run(changed, fresh=False),
            view,
            self.relative_limit,
            prepare=self.context.state.restore,
        )


@contextmanager
def probing(context: Context) -> Iterator[Probe]:
    """The model in evaluation mode and in float64 if it can; afterwards as it was."""
    traits = _traits(context)
    with context.mode(train=False):
        if traits.exact:
            with _double(context):
                yield traits
        else:
            yield traits


def noise_floor(probe: Probe, batch: Batch) -> float:
    """Difference between two equal passes; above zero only if the model hides randomness or memory."""
    first = probe.run(batch)
    # Logits where there are any: the same tensor that the checks compare.
    mains = [each.logits if each.logits is not None else each.main for each in (first, probe.run(batch))]
    return difference(mains[0].detach(), mains[1].detach())


def _traits(context: Context) -> Probe:
    """Found once per job: can it run in float64, does it keep state, is it random."""
    if "traits" in context.cache:
        found: Probe = context.cache["traits"]
        return found
    with context.mode(train=False):
        batch = context.batch()
        probe = Probe(context, exact=False)
        first = probe.main(batch)
        probe.stateful = bool(context.state.changed())
        context.state.restore()
        again = probe.main(batch)
        probe.random = difference(again, probe.main(batch, seed=1)) > difference(again, probe.main(batch))
        context.state.restore()
        probe.relative_limit = _ROUGH.get(first.dtype, _ROUGH[torch.float32])
        if _runs_in_double(context, batch, first):
            probe.exact, probe.relative_limit = True, _EXACT
    context.cache["traits"] = probe
    return probe


def _runs_in_double(context: Context, batch: Batch, first: Tensor) -> bool:
    """Whether every floating-point result of a pass is float64, and as finite as it was."""
    try:
        with torch.no_grad(), _double(context) as doubling:
            seed_everything(context.seed)
            main = context.adapter(**_in_double(batch)).main
            return (
                main.dtype == torch.float64
                and not doubling.saw_low
                and bool(torch.isfinite(main).all()) == bool(torch.isfinite(first).all())
            )
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, KeyError):
        # Custom kernels and closures over other tensors refuse float64; then we stay with what the model has.
        return False


class _Doubling(TorchFunctionMode):
    """Asks for float64 wherever the model's code asks for a smaller float."""

    saw_low = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
            return args[0].double()
        if any(isinstance(each, torch.dtype) for each in args):
            args = tuple(torch.float64 if each in _LOW else each for each in args)
        if isinstance(kwargs.get("dtype"), torch.dtype) and kwargs["dtype"] in _LOW:
            kwargs = {**kwargs, "dtype": torch.float64}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dtype != torch.float64:
            self.saw_low = True
        return result


@contextmanager
def _double(context: Context) -> Iterator[_Doubling]:
    default = torch.get_default_dtype()
    tensors = [each for each in context.kept.tensors() if each.is_floating_point()]
    doubling = _Doubling()
    outer = context.state
    try:
        torch.set_default_dtype(torch.float64)
        with replaced(tensors, Tensor.double):
            context.state = Kept(context.module, parameters=False)
            with doubling:
                yield doubling
    finally:
        context.state = outer
        torch.set_default_dtype(default)
        context.state.restore()


def _in_double(batch: Batch) -> Batch:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }
