"""The module where a step with a cache parts from the same position of the full pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchstone.adapt.cache import asking, cache_of
from torchstone.checks.bisect import find_guilty

if TYPE_CHECKING:
    from torchstone.checks.context import Batch
    from torchstone.checks.probe import Probe


def guilty_step(
    probe: Probe, batch: Batch, stream: str, cache_name: str, place: int, sizes: list[int]
) -> str | None:
    """Decode up to `place`, then compare the step there with the full pass, module by module."""
    ids: Tensor = batch[stream]
    length = ids.shape[1]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    size = sizes[starts.index(place)]
    wants = asking(probe.context.signature)
    cache: Any = None

    def prepare() -> None:
        nonlocal cache
        probe.context.state.restore()
        cache = None
        for start, tokens in zip(starts, sizes, strict=True):
            if start >= place:
                return
            more = {} if cache is None else {cache_name: cache}
            output = probe.run(
                {**batch, stream: ids[:, start : start + tokens], **wants, **more}, fresh=False
            )
            cache = cache_of(output, cache_name)

    def full() -> object:
        return probe.run({**batch, **wants}, fresh=False)

    def step() -> object:
        more = {} if cache is None else {cache_name: cache}
        return probe.run({**batch, stream: ids[:, place : place + size], **wants, **more}, fresh=False)

    def view(tensor: Tensor, is_input: bool) -> list[Tensor]:
        # Only tensors with a token axis behind the batch can be compared: (B, T, ...) with (B, size, ...).
        if tensor.dim() != 3 or not tensor.is_floating_point():
            return []
        if tensor.shape[1] == length:
            return [tensor[:, place : place + size]]
        return [tensor] if tensor.shape[1] == size else []

    guilty = find_guilty(
        probe.context.module, full, step, view, probe.relative_limit, prepare, same_shapes=False
    )
    probe.context.state.restore()
    return guilty.name if guilty else None
