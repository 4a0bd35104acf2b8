"""How good data is: rates with intervals, the zone each lies in, and the limit it is judged by.

    rate = judge(SHORT, count=12, of=1000, sampled=True)
    rate.low, rate.high, rate.zone, rate.status

Three layers. 1: `torchstone data show` draws a seeded sample from everywhere in the data and judges the rates
below. 2: `require_long_enough` does so for sequence lengths before a run begins, and refuses. 3: a batch that
cannot be made is the collator's error. Nothing here asks a question.

The interval is Wilson's (E. B. Wilson 1927, JASA 22: 209-212), 95 %; a rate that was counted over all of the
data has none to speak of: both ends are the rate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torchstone._errors import DataError, TorchstoneError
from torchstone._seeds import preserved_rng
from torchstone.data.task import TaskSpec

Z = 1.959963984540054
"""95 % of a normal distribution lie within so many standard deviations."""
ZONES = ((0.10, "excellent"), (0.20, "good"), (0.40, "high"), (0.60, "very high"), (math.inf, "critical"))
"""Share of examples that one would have to leave out, strictly below the bound."""
MIN_TOKENS = {
    "causal-lm": 2, "masked-lm": 2, "seq2seq": 2, "encoder": 1, "classification": 1,
    "token-classification": 1, "question-answering": 2, "regression": 1,
}  # fmt: skip
"""Shortest sequence that teaches something; a next token needs one before it."""
CHECKED = 200
"""Examples that are looked at before a run."""


@dataclass(frozen=True)
class Question:
    """What share of the examples is like this, and how much of it is too much?"""

    name: str
    summary: str
    limit: float
    hint: str


SHORT = Question("too-short", "shorter than the task needs", 0.20, "--set data.min_chars=N leaves them out")
LONG = Question("too-long", "longer than data.sequence_length, and cut", 0.20, "raise data.sequence_length")
EMPTY = Question("empty", "without any text", 0.05, "they are left out; look where they come from")
COPIES = Question("duplicate", "equal to one before", 0.20, "--set data.deduplicate=exact")
NEAR = Question(
    "near-duplicate",
    "equal to one before but for case, spaces and Unicode forms",
    0.20,
    "--set data.deduplicate=normalized",
)
DAMAGED = Question(
    "damaged",
    "with control characters or the mark of a lost character (U+FFFD)",
    0.05,
    "read the source again in its own encoding",
)
FLAT = Question("flat", "images of one colour", 0.05, "leave them out of the folder")
STUCK = Question(
    "one-token", "blocks in which one id fills everything", 0.05, "leave padding out of the file"
)
BEFORE_RUN = Question("too-short", "shorter than the task needs", 0.01, "leave such examples out")


@dataclass(frozen=True)
class Rate:
    """One answer."""

    name: str
    summary: str
    count: int
    of: int
    rate: float
    low: float
    high: float
    sampled: bool
    """False: counted over all of the data."""
    zone: str
    limit: float
    judged_by: str
    status: str
    """fail: surely more than the limit. warn: perhaps. pass: surely not."""
    hint: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(question: Question, count: int, of: int, *, sampled: bool) -> Rate:
    rate = count / of if of else 0.0
    low, high = wilson(count, of) if sampled else (rate, rate)
    limit = question.limit
    status = "fail" if low > limit else "warn" if high > limit else "pass"
    return Rate(
        name=question.name,
        summary=question.summary,
        count=count,
        of=of,
        rate=rate,
        low=low,
        high=high,
        sampled=sampled,
        zone=zone_of(rate),
        limit=limit,
        judged_by=f"fail if even the lower end of the interval is above {limit:g}, warn if the upper end is",
        status=status,
        hint="" if status == "pass" else question.hint,
    )


def wilson(count: int, of: int, z: float = Z) -> tuple[float, float]:
    """Interval of a rate that was seen `count` times in a sample of `of`."""
    if of == 0:
        return 0.0, 1.0
    rate = count / of
    centre = rate + z * z / (2 * of)
    spread = z * math.sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    # Rounding must not leave the ends outside what is possible.
    low = 0.0 if count == 0 else max(0.0, (centre - spread) / scale)
    return low, 1.0 if count == of else min(1.0, (centre + spread) / scale)


def zone_of(rate: float) -> str:
    return next(name for bound, name in ZONES if rate < bound)


def worst(statuses: list[str]) -> str:
    """The verdict of several; nothing that was asked is an error."""
    order = ("fail", "error", "warn", "pass")
    return next((each for each in order if each in statuses), "error")


def require_long_enough(dataset: Any, task: TaskSpec | None, seed: int) -> None:
    """Refuse data of which surely more than 1 % is too short to teach anything (layer 2)."""
    shortest = MIN_TOKENS.get(task.kind, 0) if task is not None else 0
    if shortest < 2 or not len(dataset):
        return
    chosen = sample_indices(len(dataset), CHECKED, seed)
    with preserved_rng():  # a dataset may draw random numbers
        lengths = [_length(dataset, index) for index in chosen]
    short = [
        index
        for index, length in zip(chosen, lengths, strict=True)
        if length is not None and length < shortest
    ]
    rate = judge(BEFORE_RUN, len(short), len(chosen), sampled=len(chosen) < len(dataset))
    if rate.status == "fail":
        assert task is not None
        raise DataError(
            f"{rate.rate:.1%} of the examples are too short for {task.kind}",
            where=f"for example {short[0]}",
            why=f"{len(short)} of {len(chosen)} examples drawn from {len(dataset)} have fewer than "
            f"{shortest} tokens (95 % interval {rate.low:.1%} to {rate.high:.1%}, limit {rate.limit:.0%})",
            next="leave such examples out",
        )


def sample_indices(size: int, count: int, seed: int) -> list[int]:
    """`count` different numbers below `size`, from everywhere in it, in order."""
    return sorted(random.Random(seed).sample(range(size), min(count, size)))


def _length(dataset: Any, index: int) -> int | None:
    """None: it has no ids, or cannot be made, which the run tells when it comes to it."""
    try:
        ids = dataset.batch([index]).get("input_ids")
    except TorchstoneError:
        return None
    return None if ids is None or ids.dim() < 2 else int(ids.shape[1])


class Reservoir:
    """A fair sample of a stream: every item has the same chance (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.items, self.seen = size, list[tuple[int, Any]](), 0
        self._random = random.Random(seed)

    def offer(self, make: Callable[[], Any]) -> None:
        """`make` is called only if the item is taken."""
        number, self.seen = self.seen, self.seen + 1
        if number < self.size:
            self.items.append((number, make()))
            return
        place = self._random.randrange(self.seen)
        if place < self.size:
            self.items[place] = (number, make())

    def in_order(self) -> list[Any]:
        return [item for _, item in sorted(self.items, key=lambda each: each[0])]


class Copies:
    """How many items of a stream equal one before; memory is bounded.

    Beyond `most` distinct hashes only a half, a quarter ... of the space of hashes is watched. An item and
    its copies have one hash, so the rate within what is watched stands for all.
    """

    def __init__(self, most: int = 200_000) -> None:
        self.most = most
        self._shift = 0
        self._seen: dict[int, int] = {}

    def add(self, digest: bytes) -> None:
        value = int.from_bytes(digest[:8], "big")
        if value & ((1 << self._shift) - 1):
            return
        self._seen[value] = self._seen.get(value, 0) + 1
        while len(self._seen) > self.most:
            self._shift += 1
            mask = (1 << self._shift) - 1
            self._seen = {each: count for each, count in self._seen.items() if not each & mask}

    @property
    def counted(self) -> tuple[int, int, bool]:
        """(copies, items, whether that is a sample)."""
        items = sum(self._seen.values())
        return items - len(self._seen), items, self._shift > 0
