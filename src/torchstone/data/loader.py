"""Batches in seeded order, each with the state that resumes exactly behind it.

    loader = Loader(packed.train, batch_size=16, seed=42)
    while loader.epoch < 3:
        for batch, state in loader:                               # the rest of one epoch
            ...                                                   # later: loader.load_state(state)

Epoch e has its own order, drawn from (seed, e) alone. Iterating does not move the loader until an epoch is
over, so looking at a first batch costs nothing. Files, tokens and padding are not its business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from torchstone._errors import ConfigError, DataError
from torchstone._seeds import preserved_rng
from torchstone.data.dataset import Batch, Dataset
from torchstone.data.known_values import require_known_values
from torchstone.data.part import WHOLE, Part, StandIn
from torchstone.data.task import TaskSpec
from torchstone.data.workers import drawn_by_workers

State = dict[str, Any]
POOL_BATCHES = 64
"""Batches' worth of examples that are sorted by length together: enough to fit, few enough to mix."""


class Loader:
    """Every example once per epoch; the last batch may be smaller.

    `max_samples` takes that many examples, spread evenly over the dataset. With a `task` that knows its
    sizes, ids and labels are held to them. With a `part`, only that slice of each batch is read; the state
    is the same for all parts, so it resumes with any number of them. `bucket_by_length` puts examples of
    similar length together: pools in seeded order are sorted and cut, and the batches shuffled again.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        max_samples: int | None = None,
        task: TaskSpec | None = None,
        num_workers: int = 0,
        bucket_by_length: bool = False,
        part: Part = WHOLE,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(
                f"batch_size={batch_size} is too small", next="--set train.batch_size=1 or more"
            )
        if not len(dataset):
            raise DataError("there are no examples", why="the dataset is empty")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.task = task
        self.num_workers = num_workers
        """Processes that make the batches; 0: this one."""
        self.part = part
        self._lengths = _lengths(dataset) if bucket_by_length else None
        self.epoch = 0
        self.num_examples = len(dataset) if max_samples is None else min(max_samples, len(dataset))
        self._consumed = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Batch, State]]:
        epoch, consumed = self.epoch, self._consumed
        cuts = self._chosen(epoch, consumed)
        for number, batch in enumerate(self._drawn(cuts, epoch, consumed)):
            require_known_values(batch, self.task, partial(_name_row, cuts[number]))
            consumed = min(consumed + self.batch_size, self.num_examples)
            counts = cuts.holds_examples(number)
            yield batch if counts else StandIn(batch), self._state(epoch, consumed)
        self.epoch, self._consumed = epoch + 1, 0

    def _chosen(self, epoch: int, consumed: int) -> _Cuts:
        return _Cuts(self.order(epoch)[consumed:], self.batch_size, self.part)

    def _drawn(self, chosen: _Cuts, epoch: int, consumed: int) -> Iterator[Batch]:
        if not self.num_workers:
            return (self.dataset.batch(indices) for indices in chosen)
        return drawn_by_workers(
            self.dataset,
            chosen,
            self.num_workers,
            seed=self.seed,
            epoch=epoch,
            first=consumed // self.batch_size,
        )

    def first(self) -> Batch:
        """The first batch, only looked at: what is wrong with it is told before a run begins."""
        indices = self._chosen(self.epoch, self._consumed)[0]
        with preserved_rng():  # a dataset may draw random numbers
            batch = self.dataset.batch(indices)
        require_known_values(batch, self.task, partial(_name_row, indices))
        return batch

    def order(self, epoch: int) -> np.ndarray[Any, Any]:
        """Indices into the dataset in the order of `epoch`."""
        chosen = np.arange(self.num_examples) * len(self.dataset) // self.num_examples
        if not self.shuffle:
            return chosen
        draw = np.random.default_rng([self.seed, epoch])
        order = chosen[draw.permutation(self.num_examples)]
        return order if self._lengths is None else _bucketed(order, self._lengths, self.batch_size, draw)

    def state(self) -> State:
        """Where the next iteration begins."""
        return self._state(self.epoch, self._consumed)

    def load_state(self, state: State) -> None:
        """Go on behind the batch that came with `state`; refuse the state of other data or another order."""
        mine = self.state()
        for name in ("seed", "shuffle", "num_examples", "dataset", "bucketed_by"):
            if state.get(name) != mine[name]:
                raise DataError(
                    "the data is not what it was when the state was saved",
                    why=f"{name} is {mine[name]!r} now and was {state.get(name)!r}",
                    next="resume with the same data and seed, or start a new run",
                )
        self.epoch, self._consumed = int(state["epoch"]), int(state["consumed"])

    def _state(self, epoch: int, consumed: int) -> State:
        if consumed == self.num_examples:
            epoch, consumed = epoch + 1, 0
        return {
            "epoch": epoch,
            "consumed": consumed,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "num_examples": self.num_examples,
            "dataset": self.dataset.fingerprint,
            # Which examples meet in a batch depends on its size: only then is another size another order.
            "bucketed_by": None if self._lengths is None else self.batch_size,
        }


def _lengths(dataset: Dataset) -> np.ndarray[Any, Any]:
    measure = getattr(dataset, "lengths", None)
    lengths = measure() if callable(measure) else None
    if lengths is None or (lengths == lengths[0]).all():
        raise ConfigError(
            "data.bucket_by_length has no effect on this data",
            why="its examples are equally long",
            next="take the key out",
        )
    return lengths


def _bucketed(
    order: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], batch_size: int, draw: np.random.Generator
) -> np.ndarray[Any, Any]:
    """`order` with equals together; the batch that is not full stays the last, as the cuts have it."""
    pools = np.arange(len(order)) // (POOL_BATCHES * batch_size)
    order = order[np.lexsort((lengths[order], pools))]
    num_full = len(order) // batch_size
    full, rest = np.split(order, [num_full * batch_size])
    shuffled = full.reshape(num_full, batch_size)[draw.permutation(num_full)]
    return np.concatenate([shuffled.reshape(-1), rest])


def _name_row(indices: Sequence[int], row: int) -> str:
    return f"example {indices[row]}"


class _Cuts(Sequence[list[int]]):
    """What is read for each batch of an order, cut when it is asked for: an epoch's lists would be large.

    A part without examples reads the first of the batch, to stand in.
    """

    def __init__(self, order: np.ndarray[Any, Any], batch_size: int, part: Part) -> None:
        self.order, self.batch_size, self.part = order, batch_size, part

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        whole = self._whole(number)
        mine: list[int] = (self.part.of(whole) if self.holds_examples(number) else whole[:1]).tolist()
        return mine

    def holds_examples(self, number: int) -> bool:
        low, high = self.part.bounds(len(self._whole(number)))
        return high > low

    def _whole(self, number: int) -> np.ndarray[Any, Any]:
        return self.order[number * self.batch_size : (number + 1) * self.batch_size]
