"""The health of an export: what was checked, and a score that follows from it and from nothing else.

    score = 100 * (passed + warnings / 2) / (all that ran)        rounded to one decimal

A check that was skipped does not count; a report without a check that ran has no score.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from torchstone.tracking.records import CheckResult, Status, verdict

if TYPE_CHECKING:
    from torchstone.export.golden import GoldenSet
    from torchstone.export.source import Source

TIER = 4
PEAK_WARNING_BYTES = 1_000_000_000
"""Memory of the weights above which a reader is warned."""


@dataclass
class Health:
    """The checks of one export, in the order in which they ran."""

    checks: list[CheckResult] = field(default_factory=list)

    def add(self, id: str, status: Status, summary: str, **more: Any) -> CheckResult:
        found = CheckResult(id=id, tier=TIER, status=status, summary=summary, **more)
        self.checks.append(found)
        return found

    @property
    def verdict(self) -> str:
        return verdict([each.status for each in self.checks])

    @property
    def failed(self) -> list[CheckResult]:
        return [each for each in self.checks if each.status in ("fail", "error")]

    @property
    def score(self) -> float | None:
        ran = [each.status for each in self.checks if each.status != "skip"]
        points = sum({"pass": 1.0, "warn": 0.5}.get(each, 0.0) for each in ran)
        return round(100 * points / len(ran), 1) if ran else None

    def to_dict(self) -> dict[str, Any]:
        counts = {
            name: sum(each.status == name for each in self.checks)
            for name in ("pass", "warn", "fail", "skip", "error")
        }
        return {
            "schema": "torchstone.export-health/1",
            "verdict": self.verdict,
            "score": self.score,
            "summary": {"total": len(self.checks), **counts},
            "checks": [each.to_dict() for each in self.checks],
        }

    def to_markdown(self) -> str:
        score = "none: nothing ran" if self.score is None else f"{self.score:g} of 100"
        lines = [
            f"# Health: {self.verdict}, score {score}",
            "",
            "| check | status | what was found |",
            "|---|---|---|",
        ]
        for each in self.checks:
            told = each.summary if each.why is None else f"{each.summary}: {each.why}"
            lines.append(f"| {each.id} | {each.status} | {_cell(told)} |")
        return "\n".join(lines) + "\n"


def check_weights(health: Health, source: Source) -> None:
    """Every weight is a finite number."""
    bad = {
        name: int((~torch.isfinite(value)).sum())
        for name, value in source.module.state_dict().items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    }
    count = sum(each.numel() for each in source.module.parameters())
    if bad:
        name, number = next(iter(bad.items()))
        health.add(
            "weights",
            "fail",
            f"{len(bad)} tensors hold NaN or infinities, the first is {name} ({number} numbers)",
            module=name.rpartition(".")[0],
            hint="export an earlier checkpoint: torchstone verify RUN lists them",
        )
    else:
        health.add("weights", "pass", f"{count:,} parameters, every one a finite number")


def check_memory(health: Health, source: Source) -> None:
    """What the weights alone take."""
    size = sum(each.numel() * each.element_size() for each in source.module.parameters())
    status: Status = "warn" if size > PEAK_WARNING_BYTES else "pass"
    health.add(
        "memory",
        status,
        f"the weights take {size / 1e6:,.1f} MB",
        measured=size / 1e6,
        limit=PEAK_WARNING_BYTES / 1e6,
        unit="MB",
    )


def check_determinism(health: Health, source: Source, golden: GoldenSet) -> None:
    """The same input twice gives the same output; else no copy could be compared with it."""
    case = golden.cases[0]["id"]
    inputs = [torch.from_numpy(golden.arrays[f"{case}/{name}"]) for name in source.interface.names]
    with torch.no_grad():
        one, other = source.traceable(*inputs), source.traceable(*inputs)
    gap = float((one.float() - other.float()).abs().max())
    if gap > 0:
        health.add(
            "determinism",
            "fail",
            f"two equal passes differ by {gap:.3g}",
            measured=gap,
            limit=0.0,
            hint="switch it off in evaluation mode: torchstone check TARGET --only eval-determinism",
        )
    else:
        health.add("determinism", "pass", "two equal passes give equal outputs", measured=0.0, limit=0.0)


def check_tokenizer(health: Health, source: Source) -> None:
    """It fits the embedding, and text comes back."""
    words, rows = source.tokenizer, source.model.facts.vocab_size
    if words is None:
        why = "none belongs to it" if source.model.task.is_text else f"the task is {source.model.task.kind}"
        health.add("tokenizer", "skip", "the model has no tokenizer", why=why)
    elif rows is not None and words.vocab_size > rows:
        health.add(
            "tokenizer",
            "fail",
            f"the tokenizer has {words.vocab_size} entries, the embedding {rows} rows",
            hint="use the tokenizer that the model was trained with: --tokenizer FILE",
        )
    else:
        health.add(
            "tokenizer", "pass", f"{words.vocab_size} entries fit {rows or 'the'} rows of the embedding"
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
