"""From numbers to a verdict, by rules that docs/publish.md states in the same words.

With the gain of the candidate over the baseline, its interval [low, high], and the claimed size s (0 where
only a direction is claimed):

    SUPPORTED               the gain is shown to be above 0 and at least s, and no limit was found
    SUPPORTED BUT LIMITED   the same with limits; or shown to be above 0, with s neither shown nor excluded
    NEUTRAL                 the claimed gain is excluded: high < s, or high <= 0
    NON-DIAGNOSTIC          neither: these seeds cannot tell
    REFUSED                 the comparison has confounders; its numbers are not looked at

"Shown" is a one-sided test at half of 1 - confidence, corrected by Holm over all candidates of the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchstone.study.claim.findings import Case, Finding
from torchstone.study.claim.statistics import (
    Gain,
    Scale,
    bootstrap_interval,
    estimate,
    holm,
    needed_seeds,
)

SUPPORTED = "SUPPORTED"
LIMITED = "SUPPORTED BUT LIMITED"
NEUTRAL = "NEUTRAL"
UNDECIDED = "NON-DIAGNOSTIC"
REFUSED = "REFUSED"
VERDICTS = (SUPPORTED, LIMITED, UNDECIDED, NEUTRAL, REFUSED)
"""From the best to the worst; a claim about several candidates is as good as its worst one."""
HOLDS = (SUPPORTED, LIMITED)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One candidate against the baseline. Effects are in percent of the baseline or units of the metric."""

    candidate: str
    verdict: str
    why: str
    """One sentence."""
    effect: float
    """Above 0: better, in the direction of the claim."""
    interval: tuple[float, float]
    """With the confidence of the claim, for all candidates together."""
    p_direction: float
    """That a gain above 0 is chance: one-sided, adjusted for several candidates."""
    p_size: float
    """That a gain of the claimed size is chance."""
    paired: bool
    seeds: tuple[int, int]
    """Of baseline and candidate."""
    needed_seeds: int | None
    bootstrap: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate,
            "verdict": self.verdict,
            "why": self.why,
            "effect": self.effect,
            "interval": list(self.interval),
            "p_direction": self.p_direction,
            "p_size": self.p_size,
            "method": "paired t" if self.paired else "Welch t",
            "seeds": list(self.seeds),
            "needed_seeds": self.needed_seeds,
            "bootstrap_interval": None if self.bootstrap is None else list(self.bootstrap),
        }


def judge(case: Case, limits: Sequence[Finding]) -> list[Judgement]:
    """Every candidate of a case that no rule refuses."""
    claim, base = case.claim, case.baseline
    scale = Scale(claim.direction == "lower", claim.size.scale == "relative")
    values = {
        arm.name: scale.of({run.get("seed"): run.get("value") for run in arm.runs}) for arm in case.arms
    }
    gains = {arm.name: estimate(values[base.name], values[arm.name]) for arm in case.arms[1:]}
    least = scale.meant(claim.size.least)
    p_direction = holm([each.p_above(0.0) for each in gains.values()])
    p_size = holm([each.p_above(least) for each in gains.values()])
    confidence = 1 - (1 - claim.confidence) / len(gains)  # of each, so that all hold together
    judged = []
    for place, (name, found) in enumerate(gains.items()):
        interval = found.interval(confidence)
        drawn = bootstrap_interval(values[base.name], values[name], confidence)
        reasons = [each.what for each in limits if {name, base.name} & set(each.arms)]
        if drawn is not None and drawn[0] < least:
            reasons.append("resampling the seeds does not confirm the interval")
        level = (1 - claim.confidence) / 2
        verdict, why = _decide(
            found, least, interval, reasons, shown=p_direction[place] <= level, sized=p_size[place] <= level
        )
        judged.append(
            Judgement(
                candidate=name,
                verdict=verdict,
                why=why,
                effect=scale.told(found.mean),
                interval=(scale.told(interval[0]), scale.told(interval[1])),
                p_direction=p_direction[place],
                p_size=p_size[place],
                paired=found.paired,
                seeds=(found.num_baseline, found.num_candidate),
                needed_seeds=needed_seeds(found, least or found.mean, confidence),
                bootstrap=None if drawn is None else (scale.told(drawn[0]), scale.told(drawn[1])),
            )
        )
    return judged


def _decide(
    found: Gain,
    least: float,
    interval: tuple[float, float],
    reasons: Sequence[str],
    *,
    shown: bool,
    sized: bool,
) -> tuple[str, str]:
    """The verdict and why, by the rules at the top."""
    if not found.spread:
        return UNDECIDED, "all seeds agree to the last digit, so what chance does cannot be seen"
    if shown and sized:
        if reasons:
            return LIMITED, f"the claim holds; but {'; '.join(dict.fromkeys(reasons))}"
        return SUPPORTED, "the claim holds"
    if interval[1] < least or interval[1] <= 0:
        if interval[1] < 0:
            return NEUTRAL, "the opposite is shown: the candidate is worse"
        if shown:
            return NEUTRAL, "there is a gain, and it is smaller than claimed"
        return NEUTRAL, "if there is a gain, it is smaller than claimed"
    if shown:
        return LIMITED, "there is a gain; whether it is as large as claimed, these seeds cannot tell"
    return UNDECIDED, "these seeds cannot tell a gain from chance"


def worst(judged: Sequence[Judgement]) -> Judgement:
    """A claim about several candidates is as good as its weakest."""
    return max(judged, key=lambda each: (VERDICTS.index(each.verdict), -each.effect))
