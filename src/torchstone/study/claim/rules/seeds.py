"""Whether the seeds can tell an effect from chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torchstone.study.claim.arms import Arm
from torchstone.study.claim.findings import Case, Finding, contradicted, listed, names, rule, unstated

ENOUGH = "at least 3 seeds per arm"


@rule("seeds", "Fewer than two seeds, a seed twice, one not recorded, or arms that share only some seeds.")
def seeds(case: Case) -> Iterator[Finding]:
    yield from contradicted(case, "seed", "seeds")
    alone = [arm for arm in case.arms if len(arm.runs) < 2]
    if alone:
        what = f"one run in {listed(names(alone))}: what the seed alone changes is unknown"
        yield Finding("seeds", "unmet", names(alone), what, ENOUGH)
    two = [arm for arm in case.arms if len(arm.runs) == 2]
    if two:
        what = f"two seeds in {listed(names(two))} say little about the spread"
        yield Finding("seeds", "unmet", names(two), what, ENOUGH, refuses=False)
    yield from unstated(case, "seed", "seeds")
    for arm in case.arms:
        given = Counter(run.get("seed") for run in arm.runs)
        twice = [seed for seed, count in given.items() if count > 1 and seed is not None]
        if twice:
            what = f"seed {listed(twice)} is in {arm.name} more than once; a repetition is no new evidence"
            yield Finding("seeds", "unmet", (arm.name,), what)
    base = _seeds(case.baseline)
    for arm in case.arms[1:]:
        other = _seeds(arm)
        if base & other and base != other:
            both = (case.baseline.name, arm.name)
            what = f"{' and '.join(both)} share only some seeds; not in both: {listed(sorted(base ^ other))}"
            fix = "run the missing seeds, or use seeds that the arms do not share"
            yield Finding("seeds", "differs", both, what, fix)


def _seeds(arm: Arm) -> set[int]:
    return {run.get("seed") for run in arm.runs} - {None}
