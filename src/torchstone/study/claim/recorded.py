"""What is known of a run, in one form wherever it comes from: statements of facts, each with its source.

A fact may be stated twice, as papers and exports do; both statements are kept, so that a contradiction can be
seen. A fact that nobody stated is absent, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchstone._files import sha256_bytes

THE_CLOCK = "time"
"""How the stop rule of a run begins that its own time budget ended; the budget may follow."""


@dataclass(frozen=True)
class Statement:
    """One source says that a fact has this value."""

    value: Any
    where: str


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A quantity that a comparison depends on."""

    name: str
    kind: str
    """text, whole, number or truth."""
    help: str
    required: bool = False
    """A comparison whose runs do not state it is refused; otherwise it is limited."""
    sets: tuple[str, ...] = ()
    """Configuration keys (globs) that set it: a claim that varies one of them varies the fact too."""
    tolerance: float = 0.0
    """Relative difference that counts as equal."""

    @property
    def confounder(self) -> str:
        return self.name.replace("_", "-")


FACTS: dict[str, Fact] = {
    each.name: each
    for each in (
        Fact(name="value", kind="number", help="The metric that the claim is about."),
        Fact(name="status", kind="text", help="completed, or how else the run ended.", required=True),
        Fact(name="seed", kind="whole", help="Seed of initialisation and order.", required=True),
        Fact(name="method", kind="text", help="What the authors call it."),
        Fact(
            name="model", kind="text", help="Fingerprint of the model's code and shapes.", sets=("model.*",)
        ),
        Fact(name="commit", kind="text", help="Commit of the code.", required=True),
        Fact(name="clean", kind="truth", help="No change was uncommitted."),
        Fact(
            name="data",
            kind="text",
            help="Fingerprint or name of the training data.",
            required=True,
            sets=("data.*",),
        ),
        Fact(
            name="evaluation",
            kind="text",
            help="What the metric is measured on, and how.",
        ),
        Fact(name="metric_step", kind="whole", help="Optimizer step at which the metric was measured."),
        Fact(
            name="hardware",
            kind="text",
            help="Devices: how many of which.",
            required=True,
            sets=("train.devices", "train.num_nodes"),
        ),
        Fact(name="software", kind="text", help="Versions of torch, CUDA, Python and torchstone."),
        Fact(
            name="compile_status",
            kind="text",
            help="Whether the model was compiled, and how.",
            sets=("train.compile*", "train.speed"),
        ),
        Fact(
            name="effective_batch",
            kind="whole",
            help="Examples per optimizer step over all devices.",
            required=True,
            sets=("train.batch_size", "train.gradient_accumulation_steps"),
        ),
        Fact(
            name="steps",
            kind="whole",
            help="Optimizer steps taken.",
            sets=("train.max_steps", "train.epochs"),
        ),
        Fact(
            name="tokens",
            kind="number",
            help="Targets trained on.",
            tolerance=0.01,
            sets=("train.max_steps", "train.epochs"),
        ),
        Fact(name="seconds", kind="number", help="Time spent training.", tolerance=0.05),
        Fact(
            name="stop_rule",
            kind="text",
            help="What ended the run: steps, epochs, time, early stopping.",
            sets=("train.early_stopping_patience",),
        ),
        Fact(name="planned_steps", kind="whole", help="Optimizer steps that the schedule was made for."),
        Fact(name="invalid", kind="text", help="Why the run must not be relied on."),
    )
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which number of a run decides."""

    metric: str
    direction: str
    """lower or higher is better."""
    at: str
    """end or best."""

    @property
    def loss(self) -> str | None:
        """The metric of which this one is the exponential, where it is a perplexity."""
        name = self.metric.removesuffix("perplexity")
        return f"{name}loss" if name != self.metric else None


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """One run of an arm."""

    run_id: str
    origin: str
    """store, wandb, or claim: stated by the claim file itself."""
    where: str
    """The store, the export, or file:line."""
    statements: Mapping[str, tuple[Statement, ...]]
    """Fact -> what was stated of it; absent where nothing was."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Configuration key -> value."""
    covered: frozenset[str] = frozenset()
    """Configuration keys that a fact speaks for, or that change no result."""

    def get(self, name: str) -> Any:
        """The value of a fact; None where it is not stated. Of a contradiction the first."""
        found = self.statements.get(name)
        return found[0].value if found else None

    @property
    def ended_by_the_clock(self) -> bool:
        """Whether its own time budget ended the run, not its last step and no signal."""
        return str(self.get("stop_rule") or "").startswith(THE_CLOCK)

    def contradictions(self) -> Iterator[tuple[str, tuple[Statement, ...]]]:
        """Facts of which different values are stated."""
        for name, stated in self.statements.items():
            if any(not same(FACTS[name], each.value, stated[0].value) for each in stated[1:]):
                yield name, stated

    @property
    def digest(self) -> str:
        """sha256 over everything that a judgement of this run rests on."""
        facts = {name: [each.value for each in stated] for name, stated in self.statements.items()}
        content = {"run": self.run_id, "origin": self.origin, "facts": facts, "config": dict(self.config)}
        return sha256_bytes(json.dumps(content, sort_keys=True, default=str).encode())


def same(fact: Fact, one: Any, other: Any) -> bool:
    """Whether two values of a fact count as equal."""
    if one is None or other is None:
        return one is other
    if fact.tolerance and isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= fact.tolerance * max(abs(one), abs(other))
    return bool(one == other)


def states(values: Mapping[str, Any], where: str) -> dict[str, tuple[Statement, ...]]:
    """One statement for each value that is known."""
    return {name: (Statement(value, where),) for name, value in values.items() if value is not None}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; lists as tuples, so that values can be compared and hashed."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = tuple(value) if isinstance(value, list) else value
    return found
