"""Faults drawn at random over all phases of a run, and what became of each.

A run is struck again and again, each time it is resumed, until it gets through; then it must be the run that
nothing happened to. Every draw comes from a seed that is printed, so that a failure can be replayed.
"""

from __future__ import annotations

import errno
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.job import Job
from faults.laws import broken_promises, differences, facts, missing_rows

PLACES = {"build": 1, "forward": 36, "backward": 36, "evaluate": 6, "snapshot": 6}
"""Places in the model and how often an uninterrupted run comes by, about."""
KILL = ["SIGKILL"]
REPORT = Path(os.environ.get("TORCHSTONE_CAMPAIGN_REPORT", "build/campaign")).absolute()
"""Where campaigns write what they found."""


@dataclass
class Tally:
    """kind of fault -> outcome -> how often; and every law that was broken, with how to see it again."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    runs: int = 0
    """Runs that were compared with the uninterrupted one."""
    opened: int = 0
    """Checkpoints that the watcher opened."""
    cpu_s: float = 0.0

    def add(self, kind: str, outcome: str) -> None:
        self.outcomes.setdefault(kind, Counter())[outcome] += 1

    @property
    def kills(self) -> int:
        return sum(outcomes["killed"] for outcomes in self.outcomes.values())

    @property
    def kinds_of_kills(self) -> int:
        return sum(bool(outcomes["killed"]) for outcomes in self.outcomes.values())

    def merge(self, other: Tally) -> None:
        for kind, outcomes in other.outcomes.items():
            self.outcomes.setdefault(kind, Counter()).update(outcomes)
        self.broken += other.broken
        self.runs += other.runs
        self.opened += other.opened
        self.cpu_s += other.cpu_s

    def to_dict(self) -> dict[str, Any]:
        return {
            "outcomes": {kind: dict(counts) for kind, counts in sorted(self.outcomes.items())},
            "kills": self.kills,
            "kinds": self.kinds_of_kills,
            "runs": self.runs,
            "opened": self.opened,
            "broken": self.broken,
            "cpu_s": round(self.cpu_s, 1),
        }

    def to_markdown(self) -> str:
        lines = ["| fault | times | outcome |", "|---|---:|---|"]
        for kind, counts in sorted(self.outcomes.items()):
            told = ", ".join(f"{outcome} {number}" for outcome, number in sorted(counts.items()))
            lines.append(f"| {kind} | {sum(counts.values())} | {told} |")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Tally:
        outcomes = {kind: Counter(counts) for kind, counts in told["outcomes"].items()}
        return cls(outcomes, told["broken"], told["runs"], told["opened"], told["cpu_s"])

    def keep_part(self, folder: Path, seed: int) -> None:
        """Keep what one share of a campaign found, and the table of all shares so far."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"part-{seed}.json").write_text(json.dumps(self.to_dict()), encoding="utf-8")
        whole = Tally()
        for part in folder.glob("part-*.json"):
            whole.merge(Tally.from_dict(json.loads(part.read_text(encoding="utf-8"))))
        whole.write(folder / "campaign.json")

    def write(self, path: Path) -> None:
        """`path` as JSON, and the table beside it as Markdown."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(self.to_markdown(), encoding="utf-8")


class Rain:
    """Runs, one after the other, under the faults that are given to `strike`."""

    def __init__(self, new_job: Callable[[], Job], reference: dict[str, Any], seed: object = "") -> None:
        self.new_job = new_job
        self.reference = reference
        self.seed = seed
        self.tally = Tally()
        self.job: Job | None = None
        self.story: list[dict[str, Any]] = []
        """Faults that the present run has had."""

    def strike(self, fault: dict[str, Any]) -> dict[str, Any]:
        """Continue the run (or begin one) under `fault`; check what must hold right after."""
        if self.job is None:
            self.job, self.story = self.new_job(), []
        self.story.append(fault)
        told = self.job.train(fault)
        self.tally.cpu_s += told.get("cpu_s", 0.0)
        kind, outcome = kind_of(fault, told), outcome_of(told)
        self.tally.add(kind, outcome)
        if outcome == "hung" or outcome.startswith("died"):
            self.break_("the process " + outcome)
        for problem in broken_promises(self.job.run_dir) + missing_rows(self.job.run_dir, self.reference):
            self.break_(problem)
        if told["code"] == 0:
            self._compare()
        return told

    def strike_surely(self, fault: dict[str, Any]) -> dict[str, Any]:
        """`strike`, again on a new run if the present one came to its end before the fault could strike."""
        told = self.strike(fault)
        return self.strike(fault) if self.job is None and told["code"] == 0 else told

    def finish(self) -> None:
        """Let the present run get through, and compare it."""
        if self.job is not None:
            told = self.job.train()
            if told["code"] != 0:
                self.break_(f"does not get through: exit code {told['code']}: {self.job.said()[-800:]}")
                self.job = None
                return
            self._compare()

    def _compare(self) -> None:
        assert self.job is not None
        self.tally.runs += 1
        for difference in differences(self.reference, facts(self.job.run_dir))[:5]:
            self.break_(difference)
        self.job = None

    def break_(self, problem: str) -> None:
        self.tally.broken.append(
            f"{problem}; seed {self.seed}, faults {self.story}, in {self.job and self.job.base}"
        )


def kind_of(fault: dict[str, Any], told: dict[str, Any]) -> str:
    """What the table calls it: the action and the place."""
    if "errno" in fault:
        action = errno.errorcode[fault["errno"]] + ("+KILL" if "kill_at" in fault else "")
    else:
        struck_before = fault.get("with", {}).get("signals", [])
        action = "+".join([*struck_before, *fault.get("signals", KILL)]).replace("SIG", "")
    if "io" in fault:
        return f"{action} at {told.get('struck') or fault['io'] or 'a call'}"
    if "place" in fault:
        return f"{action} in {fault['place']}"
    return f"{action} at a random instant"


def outcome_of(told: dict[str, Any]) -> str:
    if told.get("hung"):
        return "hung"
    if told["code"] == -9:
        return "killed"
    if told["code"] < 0:
        return f"died of signal {-told['code']}"
    return "went on" if told["code"] == 0 else f"exit {told['code']}"


def draw_other(rng: random.Random, labels: Sequence[str]) -> dict[str, Any]:
    """A signal, two, or a call that fails; a full disk seldom, because it is waited for."""
    signals = rng.choices(["SIGTERM", "SIGINT", "SIGUSR1"], k=rng.choice([1, 1, 2]))
    way = rng.random()
    if way < 0.3:
        place = rng.choice(list(PLACES))
        return {"place": place, "count": rng.randint(1, PLACES[place]), "what": "signals", "signals": signals}
    at = {"io": rng.choice(labels), "count": 1 + min(int(rng.expovariate(0.7)), 8)}
    if way < 0.6:
        return {**at, "signals": signals}
    return {**at, "errno": errno.EIO if way < 0.95 else errno.ENOSPC}


def draw_kill(rng: random.Random, labels: Sequence[str], longest_s: float) -> dict[str, Any]:
    """A kill at a call that changes the disk, at a place in the model, or at an instant."""
    way = rng.random()
    if way < 0.5:
        count = 1 + min(int(rng.expovariate(0.7)), 8)
        return {"io": rng.choice(labels), "count": count, "signals": KILL}
    if way < 0.75:
        place = rng.choice(list(PLACES))
        return {"place": place, "count": rng.randint(1, PLACES[place]), "what": "kill"}
    return {"after_s": rng.uniform(0.0, longest_s), "signals": KILL}
