"""What the gate answers: the verdict with everything it rests on. `page.py` shows it, `seal.py` signs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torchstone.report.numbers import number
from torchstone.study.claim.arms import Arm
from torchstone.study.claim.findings import Finding, shown
from torchstone.study.claim.recorded import FACTS
from torchstone.study.claim.terms import Claim
from torchstone.study.claim.verdict import HOLDS, REFUSED, Judgement, worst

SCHEMA = "torchstone.publish/1"


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One claim, judged."""

    claim: Claim
    arms: tuple[Arm, ...]
    confounders: tuple[Finding, ...]
    limits: tuple[Finding, ...]
    judged: tuple[Judgement, ...]
    """One per candidate; empty where the comparison is refused."""
    created: str
    """ISO 8601, UTC."""
    history: tuple[Mapping[str, Any], ...] = field(default=())
    """Earlier verdicts of the same page, oldest first."""

    @property
    def verdict(self) -> str:
        return REFUSED if self.confounders else worst(self.judged).verdict

    @property
    def holds(self) -> bool:
        return self.verdict in HOLDS

    @property
    def why(self) -> str:
        if not self.confounders:
            return worst(self.judged).why
        names = dict.fromkeys(each.name for each in self.confounders)
        return f"the arms cannot be compared: {', '.join(names)}"

    @property
    def unit(self) -> str:
        """Of effect and interval."""
        return "%" if self.claim.size.scale == "relative" else self.claim.metric

    def told(self, value: float) -> str:
        return f"{number(value)} %" if self.unit == "%" else number(value)

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.publish/1` object."""
        decisive = None if self.confounders else worst(self.judged)
        return {
            "schema": SCHEMA,
            "title": self.claim.title,
            "verdict": self.verdict,
            "why": self.why,
            "confounders": [each.to_dict() for each in self.confounders],
            "limits": [each.to_dict() for each in self.limits],
            "effect": decisive and decisive.effect,
            "interval": decisive and list(decisive.interval),
            "unit": self.unit,
            "seeds": min(len(arm.runs) for arm in self.arms),
            "needed_seeds": decisive and decisive.needed_seeds,
            "comparisons": [each.to_dict() for each in self.judged],
            "claim": {
                "metric": self.claim.metric,
                "direction": self.claim.direction,
                "effect": str(self.claim.size),
                "varies": list(self.claim.varies),
                "ignores": dict(self.claim.ignores),
                "budget": self.claim.budget,
                "at": self.claim.at,
                "confidence": self.claim.confidence,
                "text": self.claim.text,
            },
            "arms": [_arm(arm) for arm in self.arms],
            "created": self.created,
            "history": [dict(each) for each in self.history],
        }


def _arm(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "runs": [
            {
                "id": run.run_id,
                "origin": run.origin,
                "digest": run.digest,
                "facts": {name: run.get(name) for name in FACTS if run.get(name) is not None},
            }
            for run in arm.runs
        ],
    }


def varied_settings(publication: Publication) -> dict[str, list[str]]:
    """Configuration key that the claim varies -> its values in each arm, where they are not the same."""
    arms, patterns = publication.arms, publication.claim.varies
    keys = dict.fromkeys(key for arm in arms for run in arm.runs for key in run.config)
    found = {}
    for key in keys:
        if any(fnmatchcase(key, each) for each in patterns):
            told = [", ".join(dict.fromkeys(shown(run.config.get(key)) for run in arm.runs)) for arm in arms]
            if len(set(told)) > 1:
                found[key] = told
    return found


def told_fact(arms: Sequence[Arm], fact: str) -> list[str]:
    """A fact of each arm in words: its one value, or the range of many."""
    told = []
    for arm in arms:
        values = list(dict.fromkeys(run.get(fact) for run in arm.runs if run.get(fact) is not None))
        numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
        if not values:
            told.append("not recorded")
        elif fact == "seed":
            told.append(", ".join(str(each) for each in sorted(numbers)))
        elif len(numbers) == len(values) > 1:
            told.append(f"{number(min(numbers))} to {number(max(numbers))}")
        else:
            told.append(", ".join("yes" if v is True else "no" if v is False else number(v) for v in values))
    return told
