"""Ways to compute one model (attention kernels, torch.compile, bfloat16): each must agree with eager float32.

    for way in ways_of(context):
        with way.taken(context.module):
            ...                             # Unavailable where this machine or this model has no such way

The reference is float32 without any fusing: attention written out, no fast path, nothing compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchstone._errors import in_one_line
from torchstone.checks.attention_maps import without_fast_path, written_out
from torchstone.checks.unlogged import unlogged
from torchstone.train.attention_kernel import observed_kernels

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context

FLOAT32, BFLOAT16 = 2.0**-23, 2.0**-8
"""Distance from one to the next number."""


class Unavailable(Exception):
    """This way cannot be taken here; the message says why."""


@dataclass(frozen=True)
class Way:
    """One way to compute."""

    name: str
    taken: Callable[[nn.Module], AbstractContextManager[None]]
    rounding: float = FLOAT32
    learns: bool = True
    """Whether gradients are kept; some kernels are for answers alone."""
    note: str = ""
    """What of this way was not run."""


REFERENCE = Way("reference", lambda module: written_out())


def ways_of(context: Context, batch: Batch) -> tuple[Way, ...]:
    """Those that this model could be computed in; whether it can is seen when one is taken."""
    found: list[Way] = []
    kernels = _kernels(context, batch)
    if kernels or _has_fast_path(context.module):
        found.append(Way("inference", lambda module: torch.no_grad(), learns=False))
    if kernels:
        backends = [SDPBackend.FLASH_ATTENTION]
        if context.device.type == "cuda":
            backends += [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
        found += [Way(f"sdpa-{_short(each)}", _forced(each)) for each in backends]
    backend = context.plan.compile_backend
    note = "" if backend == "inductor" else f"the graph of {backend}; no kernel was generated"
    found.append(Way("compile", lambda module: _compiled(module, backend), note=note))
    found.append(Way("bfloat16", lambda module: _autocast(context.device.type), rounding=BFLOAT16))
    return tuple(found)


def _kernels(context: Context, batch: Batch) -> bool:
    """Whether torch chooses among kernels for this model's attention."""
    seen = observed_kernels(context.module, lambda: context.forward(batch, grad=True))
    context.state.restore()
    return any(not each.startswith("written out") for each in seen.values())


def _has_fast_path(module: nn.Module) -> bool:
    """Layers of torch that compute themselves otherwise while no gradient is kept; hooks would hide it."""
    return any(
        isinstance(each, nn.MultiheadAttention | nn.TransformerEncoderLayer) for each in module.modules()
    )


def _short(backend: SDPBackend) -> str:
    return str(backend.name).removesuffix("_ATTENTION").lower()


def _forced(backend: SDPBackend) -> Callable[[nn.Module], AbstractContextManager[None]]:
    @contextmanager
    def taken(module: nn.Module) -> Iterator[None]:
        try:
            with without_fast_path(), sdpa_kernel(backend):
                yield
        except RuntimeError as error:
            if "available kernel" not in str(error):
                raise
            raise Unavailable(f"no {_short(backend)} kernel takes these shapes and masks") from error

    return taken


@contextmanager
def _autocast(device: str) -> Iterator[None]:
    # Cached casts would hide what the optimizer does to the weights until the block ends.
    with written_out(), torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
        yield


@contextmanager
def _compiled(module: nn.Module, backend: str) -> Iterator[None]:
    """The module compiled in place; Unavailable if the compiler refuses it, or if no graph was run."""
    from torch._dynamo import lookup_backend

    ran = 0

    def counted(graph: Any, inputs: Any) -> Callable[..., Any]:
        made = lookup_backend(backend)(graph, inputs)

        def call(*args: Any) -> Any:
            nonlocal ran
            ran += 1
            return made(*args)

        return call

    before = module._compiled_call_impl
    torch.compiler.reset()
    try:
        with unlogged("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx"):
            module.compile(backend=counted)
            yield
    except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.BackendCompilerFailed) as error:
        raise Unavailable(f"torch.compile refuses the model: {in_one_line(error)}") from error
    finally:
        module._compiled_call_impl = before
        torch.compiler.reset()
    if not ran:
        raise Unavailable("torch.compile left the model as it was: no graph could be captured")
