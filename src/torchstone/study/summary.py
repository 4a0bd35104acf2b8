"""What a study found: per arm the mean over seeds, its spread, and the paired difference to the parent.

    found = summarise(outcome, sizes)
    found.arm("5").mean, found.arm("5").difference, found.best, found.frontier("seconds")

Differences are between cells of the same seed, so what a seed brings to both arms cancels. Intervals are
95 %, Student's t over seeds; with one seed there is none, and none is shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchstone.study.plan_info import metric_of
from torchstone.study.prove.full_size import FullSize
from torchstone.study.records import Arm, Study
from torchstone.study.run import Outcome
from torchstone.train.interval import student_quantile

HIGHER_IS_BETTER = ("accuracy", "f1", "exact_match")
COSTS = ("kv_bytes_per_token", "parameters", "flops", "seconds")
"""What quality is held against."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """To the parent, over the seeds that both have."""

    mean: float
    interval: tuple[float, float] | None
    """None with fewer than two seeds."""
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """One arm over its seeds."""

    arm: Arm
    values: Mapping[int, float]
    """Seed -> metric, of cells that are done and measured it."""
    num_cells: int
    """All of the arm's, done or not."""
    difference: Difference | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    """What is known of `COSTS`: of one sequence or token as the proof counts, and seconds of training."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None with fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A whole study, as far as it has come."""

    study: Study
    arms: Sequence[ArmSummary]
    notes: Sequence[str] = ()

    @property
    def lower_is_better(self) -> bool:
        return not self.study.metric.endswith(HIGHER_IS_BETTER)

    def arm(self, id_: str) -> ArmSummary:
        return next(each for each in self.arms if each.arm.id == id_)

    def better(self, one: float, other: float) -> bool:
        return one < other if self.lower_is_better else one > other

    @property
    def best(self) -> ArmSummary | None:
        return self._best(self.arms)

    @property
    def best_by_axis(self) -> dict[str, dict[str, ArmSummary]]:
        """Axis -> value -> the best arm with it, of a matrix."""
        found: dict[str, dict[str, ArmSummary]] = {}
        for axis in self.study.axes:
            for value in axis.values:
                among = [each for each in self.arms if each.arm.values.get(axis.name) == value.name]
                if (best := self._best(among)) is not None:
                    found.setdefault(axis.name, {})[value.name] = best
        return found

    def frontier(self, cost: str) -> list[ArmSummary]:
        """Arms that no other beats in both quality and `cost`, cheapest first (Pareto)."""
        known = [each for each in self.arms if each.mean is not None and cost in each.costs]
        kept = [each for each in known if not any(self._beats(other, each, cost) for other in known)]
        return sorted(kept, key=lambda each: (each.costs[cost], each.arm.id))

    def _beats(self, one: ArmSummary, other: ArmSummary, cost: str) -> bool:
        assert one.mean is not None and other.mean is not None
        as_good = one.mean == other.mean or self.better(one.mean, other.mean)
        as_cheap = one.costs[cost] <= other.costs[cost]
        strictly = self.better(one.mean, other.mean) or one.costs[cost] < other.costs[cost]
        return as_good and as_cheap and strictly

    def _best(self, among: Sequence[ArmSummary]) -> ArmSummary | None:
        measured = [each for each in among if each.mean is not None and math.isfinite(each.mean)]
        sign = 1.0 if self.lower_is_better else -1.0
        return min(measured, key=lambda each: sign * (each.mean or 0.0), default=None)


def summarise(outcome: Outcome, sizes: Mapping[str, FullSize] | None = None) -> Summary:
    """`sizes`: arm -> what the meta device tells of it."""
    plan, notes = outcome.plan, []
    values: dict[str, dict[int, float]] = {each.id: {} for each in plan.arms}
    seconds: dict[str, list[float]] = {}
    unmeasured = 0
    for state in outcome.states:
        if state.status != "done":
            continue
        value = metric_of(state, plan.study.metric)
        unmeasured += value is None
        if value is not None:
            values[state.cell.arm][state.cell.seed] = value
        seconds.setdefault(state.cell.arm, []).append(float((state.result or {}).get("seconds") or 0.0))
    if unmeasured:
        notes.append(f"{unmeasured} cells that are done did not measure {plan.study.metric}")
    left = len(plan.cells) - sum(each.status == "done" for each in outcome.states)
    if left:
        notes.append(f"{left} of {len(plan.cells)} cells are not done: what is below is not the whole study")
    if any(len(each) == 1 for each in values.values()):
        notes.append("arms with one seed have no spread: a difference of theirs may be chance")
    arms = []
    for arm in plan.chosen_arms:
        costs = {name: float(value) for name, value in _sizes(sizes, arm.id).items() if value is not None}
        if arm.id in seconds:
            costs["seconds"] = statistics.fmean(seconds[arm.id])
        arms.append(
            ArmSummary(
                arm=arm,
                values=values[arm.id],
                num_cells=sum(each.arm == arm.id for each in plan.cells),
                difference=_difference(values[arm.id], values.get(arm.parent or "", {})),
                costs=costs,
            )
        )
    return Summary(study=plan.study, arms=arms, notes=notes)


def _sizes(sizes: Mapping[str, FullSize] | None, arm: str) -> dict[str, float | None]:
    size = (sizes or {}).get(arm)
    if size is None:
        return {}
    return {
        "parameters": size.parameters,
        "flops": size.flops,
        "kv_bytes_per_token": size.kv_bytes_per_token,
    }


def _difference(own: Mapping[int, float], parent: Mapping[int, float]) -> Difference | None:
    seeds = sorted(own.keys() & parent.keys())
    if not seeds:
        return None
    pairs = [own[seed] - parent[seed] for seed in seeds]
    mean, interval = statistics.fmean(pairs), None
    if len(pairs) > 1:
        reach = student_quantile(len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
        interval = (mean - reach, mean + reach)
    return Difference(mean=mean, interval=interval, num_seeds=len(pairs))
