"""Runs as a training leaves them in a store, a repository with a commit, and claims about them."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchstone.config.resolve import resolve
from torchstone.study.claim.claim_file import read_claim
from torchstone.study.claim.gate import assess
from torchstone.study.claim.publication import Publication
from torchstone.tracking import rows
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store
from torchstone.train.config import SECTIONS

BASE = resolve(SECTIONS, overrides=[("train.max_steps", "100"), ("model.target", "zoo:gpt-nano")]).plain
FACTS: dict[str, Any] = {
    "schema": "torchstone.facts/1",
    "first_step": 0,
    "planned_steps": 100,
    "model": {"target": "zoo:gpt-nano", "class": "GPT", "fingerprint": "m1", "parameters": 9, "trainable": 9},
    "data": {"train": "d1", "validation": "v1", "tokens_per_epoch": 100_000},
    "batch": {"examples": 4, "accumulation": 2, "effective": 8},
    "compile": {"mode": "none", "why": ""},
    "levers": None,
    "hardware": {"device": "cuda", "name": "B200", "processes": 4, "threads": 1},
    "environment": {"torchstone": "0.1.0", "torch": {"version": "2.13.0"}, "python": "3.11.7"},
}
SUMMARY = {"steps": 100, "tokens": 12_700, "seconds": 60.0, "reason": "all steps done"}


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder: Path) -> None:
    """Make a repository with two commits."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    for text in ("one", "two"):
        (folder / "code.txt").write_text(text)
        git(folder, "add", "code.txt")
        git(folder, "commit", "-qm", text)


@dataclass
class Run:
    """One run that is about to be recorded; tests change it first."""

    run_id: str
    seed: int
    value: float
    commit: str
    config: dict[str, Any] = field(default_factory=lambda: dict(BASE))
    sessions: list[dict[str, Any]] = field(default_factory=lambda: [copy.deepcopy(FACTS)])
    summary: dict[str, Any] = field(default_factory=lambda: dict(SUMMARY))
    status: str = "completed"
    metric: str = "val/loss"
    metric_step: int = 100

    def __post_init__(self) -> None:
        self.config["train.random_seed"] = self.seed
        self.facts["git"] = {
            "commit": self.commit,
            "dirty": False,
            "untracked": ["notes.txt"],
            "untracked_code": [],
        }

    @property
    def facts(self) -> dict[str, Any]:
        return self.sessions[0]

    def record(self, store: Store) -> None:
        folder = f"runs/{self.run_id}"
        store.start_run(self.run_id, name=self.run_id, kind="train", run_dir=folder, config=self.config)
        for session in self.sessions:
            store.add_event(self.run_id, rows.FACTS, session)
        store.log_rows(self.run_id, [MetricRow(self.metric, self.metric_step, self.value)])
        store.finish_run(self.run_id, self.status, self.summary)


Change = Callable[[Run], object]


def unchanged(run: Run) -> None:
    pass


@dataclass
class Bench:
    """A folder with a repository and a store."""

    folder: Path
    commit: str

    @property
    def store(self) -> Path:
        return self.folder / "runs" / "store.db"

    def arm(
        self,
        name: str,
        values: Sequence[float],
        *,
        first_seed: int = 1,
        config: Mapping[str, Any] | None = None,
        change: Change = unchanged,
    ) -> None:
        """Record an arm whose runs carry the tag `name`; `change` may alter each of them."""
        with Store.open(self.store) as store:
            for place, value in enumerate(values):
                run = Run(f"{name}-{place}", first_seed + place, value, self.commit)
                run.config |= {"tracking.tags": [name]} | dict(config or {})
                change(run)
                run.record(store)

    def claim(self, *, arms: str = "", name: str = "claim.toml", **keys: str) -> Path:
        """Write a claim; keys are TOML values as text, an empty one leaves the key out."""
        words = {
            "title": '"the candidate is better"',
            "metric": '"val/loss"',
            "direction": '"lower"',
            "effect": '"relative 5 %"',
            "varies": '["optim.learning_rate"]',
        } | keys
        head = "\n".join(f"{key} = {value}" for key, value in words.items() if value)
        arms = arms or 'baseline = "runs:tag=baseline"\ncandidate = "runs:tag=candidate"'
        path = self.folder / name
        path.write_text(f"[claim]\n{head}\n\n[arms]\n{arms}\n")
        return path

    def judged(self, **keys: str) -> Publication:
        return assess(read_claim(self.claim(**keys)), self.store)


def pair(
    bench: Bench,
    *,
    baseline: Sequence[float] = (3.0, 3.01, 3.02),
    candidate: Sequence[float] = (2.7, 2.71, 2.72),
    first_seed: int = 1,
    change: Change = unchanged,
    change_both: Change = unchanged,
) -> None:
    """A clean comparison of two learning rates, but for what the changes do."""

    def altered(run: Run) -> None:
        change_both(run)
        change(run)

    config = {"optim.learning_rate": 3e-4}
    bench.arm("baseline", baseline, change=change_both)
    bench.arm("candidate", candidate, first_seed=first_seed, config=config, change=altered)
