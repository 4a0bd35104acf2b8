"""The part of a batch that one of several processes works on.

    Part(rank=1, world=2).of([7, 3, 9])      # [3, 9]: no gap, no overlap, sizes differ by at most one

The batch is the same on all ranks (its order follows from the seed), so the parts make up exactly what a
single process would see. Where a batch has fewer examples than there are ranks, some get a stand-in: an
example that is passed through the model, because all ranks must, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchstone.data.dataset import Batch


class StandIn(dict[str, Any]):
    """A batch whose targets do not count."""


@dataclass(frozen=True)
class Part:
    """Rank `rank` of `world`."""

    rank: int = 0
    world: int = 1

    def bounds(self, size: int) -> tuple[int, int]:
        """First index, and the one after the last, of `size`."""
        return size * self.rank // self.world, size * (self.rank + 1) // self.world

    def of(self, indices: Any) -> Any:
        """The slice of a list or an array that is this rank's."""
        low, high = self.bounds(len(indices))
        return indices[low:high]

    def of_batch(self, batch: Mapping[str, Any]) -> Batch:
        """The rows of this rank of a batch that is already put together; a stand-in if there are none."""
        if self.world == 1:
            return dict(batch)
        size = _num_examples(batch)
        low, high = self.bounds(size)
        rows = slice(low, high) if high > low else slice(0, 1)
        kind = dict if high > low else StandIn
        return kind(
            {
                name: value[rows]
                if isinstance(value, Tensor) and value.dim() and len(value) == size
                else value
                for name, value in batch.items()
            }
        )


WHOLE = Part()


def _num_examples(batch: Mapping[str, Any]) -> int:
    """Rows of what every task has; other fields may be shared by all examples."""
    for name in ("labels", "input_ids", "pixel_values", "input_values"):
        value = batch.get(name)
        if isinstance(value, Tensor) and value.dim():
            return len(value)
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim())
