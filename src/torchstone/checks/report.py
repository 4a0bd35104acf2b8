"""The report of a check job: what ran on which model, what it found, and the verdict.

It holds plain values; drawing is done by the `report` room from `to_dict()`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import UsageError
from torchstone._optional import require
from torchstone._registry import suggest
from torchstone._version import __version__
from torchstone.tracking.records import CheckResult
from torchstone.tracking.records import verdict as worst

if TYPE_CHECKING:
    import pandas

SCHEMA = "torchstone.check/1"


@dataclass(frozen=True)
class CheckReport:
    """`report["causal-leak"].module`, `report.verdict`, `report.to_json()` ..."""

    model: dict[str, Any]
    """target, class, fingerprint, parameters, task, signature, vocab_size, vocab_size_source."""
    checks: list[CheckResult]
    seconds: float
    seed: int
    modules: tuple[str, ...] = ()
    """Dotted names of the model's modules, for the tree of the page; not part of the JSON object."""

    @property
    def verdict(self) -> str:
        """fail > error > warn > pass; nothing ran is an error."""
        return worst([each.status for each in self.checks])

    def __getitem__(self, name: str) -> CheckResult:
        for each in self.checks:
            if each.id == name:
                return each
        known = [each.id for each in self.checks]
        raise UsageError(
            f"check {name!r} is not in this report",
            why=suggest(name, known),
            next=f"it holds: {', '.join(known)}",
        )

    def __contains__(self, name: object) -> bool:
        return any(each.id == name for each in self.checks)

    def __iter__(self) -> Iterator[CheckResult]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The object that `check --json` prints."""
        return {
            "schema": SCHEMA,
            "torchstone": __version__,
            "model": self.model,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 3),
            "seed": self.seed,
            "checks": [_plain(each.to_dict()) for each in self.checks],
        }

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_frame(self) -> pandas.DataFrame:
        """One row per check."""
        pandas = require("pandas", "frames")
        rows = [{name: row[name] for name in row if name != "details"} for row in self.to_dict()["checks"]]
        return pandas.DataFrame(rows)

    def to_html(self, path: str | Path) -> Path:
        """A self-contained page."""
        from torchstone._files import write_text
        from torchstone.report.check_html import check_html

        write_text(Path(path), check_html(self.to_dict(), self.modules))
        return Path(path)

    def to_junit(self, path: str | Path) -> Path:
        """JUnit XML, one test case per check."""
        from torchstone._files import write_text
        from torchstone.report.check_junit import check_junit

        write_text(Path(path), check_junit(self.to_dict()))
        return Path(path)

    def __str__(self) -> str:
        lines = [f"{self.model.get('class')}: {self.verdict}"]
        lines += [f"  {each.status:5} {each.id}: {each.summary}" for each in self.checks]
        return "\n".join(lines)


def from_dict(value: dict[str, Any]) -> CheckReport:
    """The report that `to_dict` wrote, for instance inside the isolated worker."""
    return CheckReport(
        model=value["model"],
        checks=[CheckResult(**each) for each in value["checks"]],
        seconds=value["seconds"],
        seed=value["seed"],
    )


def _plain(value: Any) -> Any:
    """JSON knows no infinity and no NaN: they become strings in details and measured values."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
