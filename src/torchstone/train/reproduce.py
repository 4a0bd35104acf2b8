"""Take the first steps of a recorded run again, and compare what they measure to the last bit.

REPRODUCED         every value is the same float
WITHIN TOLERANCE   none differs by more than 0.1 % (other kernels add in another order)
FAILED             one does, or model or data are not what they were

The run goes into a folder that is thrown away; nothing of the user's is touched.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import UntrustedCode
from torchstone.config.resolve import Resolved
from torchstone.train.config import SECTIONS
from torchstone.train.run import TrainJob, run

if TYPE_CHECKING:
    from torchstone.export.capsule import Capsule
    from torchstone.train.hooks import StepInfo

TOLERANCE = 1e-3
"""Relative."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of it."""

    verdict: str
    """REPRODUCED, WITHIN TOLERANCE or FAILED."""
    run_id: str
    steps: int
    """The last step that was compared."""
    compared: int
    """Values."""
    equal: int
    largest: float | None
    """Relative difference; None where nothing could be compared."""
    why: str | None = None
    differences: list[dict[str, Any]] = field(default_factory=list)
    """The first ten."""

    def to_dict(self) -> dict[str, Any]:
        return {"schema": "torchstone.reproduce/1"} | dataclasses.asdict(self)


class _Enough(Exception):
    """The steps that are compared have been taken."""


class _Notebook:
    """Notes what each step measures, and ends the run behind the last that counts."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.values: dict[tuple[int, str], float] = {}

    def on_step(self, info: StepInfo) -> None:
        self.values[info.step, "train/loss"] = info.loss
        self.values[info.step, "train/grad_norm"] = info.grad_norm
        if info.step >= self.last:
            raise _Enough


def reproduce(capsule: Capsule, *, trust: bool = False, device: str | None = None) -> Reproduction:
    """Run a capsule's first steps. UntrustedCode where it brings its own code and nobody said `trust`."""
    settings = _settings(capsule, trust)
    wanted = capsule.losses
    notebook = _Notebook(max(step for step, _, _ in wanted))
    with _elsewhere() as folder:
        job = TrainJob(
            settings, run_dir=folder / "run", trust=trust or None, device=device, hooks=(notebook,)
        )
        with suppress(_Enough):
            run(job)
        changed = _changed_facts(capsule.facts, folder / "run")
    return compare(capsule.about["run_id"], wanted, notebook.values, changed)


def compare(
    run_id: str,
    wanted: list[tuple[int, str, float]],
    found: dict[tuple[int, str], float],
    changed: str | None,
) -> Reproduction:
    """The verdict over (step, metric, value); `changed` says what else is not as it was."""
    gaps = [
        (step, key, value, found.get((step, key)), _gap(value, found.get((step, key))))
        for step, key, value in wanted
    ]
    largest = max(gap for *_, gap in gaps)
    equal = sum(gap == 0 for *_, gap in gaps)
    verdict = "REPRODUCED" if equal == len(gaps) else "WITHIN TOLERANCE" if largest <= TOLERANCE else "FAILED"
    why = None
    if changed is not None and verdict != "REPRODUCED":
        verdict, why = "FAILED", changed
    elif verdict == "FAILED":
        step, key, value, other, _ = next(each for each in gaps if each[-1] > TOLERANCE)
        why = f"{key} of step {step} was {value!r}, is {other!r}"
    told = [
        {"step": step, "metric": key, "recorded": value, "found": other}
        for step, key, value, other, gap in gaps
        if gap > 0
    ]
    return Reproduction(
        verdict=verdict,
        run_id=run_id,
        steps=max(step for step, _, _ in wanted),
        compared=len(gaps),
        equal=equal,
        largest=largest if largest != float("inf") else None,
        why=why,
        differences=told[:10],
    )


def _gap(value: float, other: float | None) -> float:
    if other is None:
        return float("inf")
    if value == other or (value != value and other != other):
        return 0.0
    gap = abs(value - other) / max(abs(value), 1e-30)
    return gap if gap == gap else float("inf")


def _settings(capsule: Capsule, trust: bool) -> Resolved:
    settings = Resolved.from_json(SECTIONS, capsule.config)
    if capsule.code is None:
        return settings
    if not trust:
        raise UntrustedCode(
            "the capsule brings the code of its model",
            why="running it would give whoever wrote it your rights",
            next="read code/ in the archive, then: torchstone reproduce CAPSULE --trust",
        )
    return settings.with_values({"model.target": capsule.code}, source="capsule")


@contextmanager
def _elsewhere() -> Iterator[Path]:
    """A folder with a store of its own, whatever the environment names."""
    before = os.environ.pop("TORCHSTONE_STORE", None)
    try:
        with tempfile.TemporaryDirectory(prefix="torchstone-reproduce-") as place:
            yield Path(place)
    finally:
        if before is not None:
            os.environ["TORCHSTONE_STORE"] = before


def _changed_facts(before: dict[str, Any], run_dir: Path) -> str | None:
    """What of model and data is not as it was, in one sentence."""
    from torchstone.tracking.rows import FACTS
    from torchstone.tracking.run_folder import RunFolder
    from torchstone.tracking.store import Store, default_store

    with Store.open(default_store(run_dir), readonly=True) as store:
        events = [each.data for each in store.events(RunFolder.open(run_dir).run_id) if each.kind == FACTS]
    now = events[0] if events else {}
    for part, name in (("data", "train"), ("model", "fingerprint")):
        was, known = (before.get(part) or {}).get(name), (now.get(part) or {}).get(name)
        if was != known:
            return f"the {part} is not what it was: its fingerprint was {str(was)[:16]}, is {str(known)[:16]}"
    return None
