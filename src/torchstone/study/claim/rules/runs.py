"""Whether the runs themselves can be relied on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torchstone.study.claim.findings import Case, Finding, contradicted, distinct, listed, names, rule, shown
from torchstone.study.claim.recorded import RecordedRun


@rule(
    "unfinished", "A run is still going, was interrupted or failed; to leave it out would choose by outcome."
)
def unfinished(case: Case) -> Iterator[Finding]:
    fix = "finish the run (train --resume auto), or repeat it with a new seed"
    for arm in case.arms:
        # a time budget is the stop rule's business
        own = [run for run in arm.runs if not run.ended_by_the_clock]
        ended = {run.run_id: run.get("status") or "unknown" for run in own}
        bad = [f"{run_id} ({status})" for run_id, status in ended.items() if status != "completed"]
        if bad:
            yield Finding("unfinished", "unmet", (arm.name,), f"not completed: {listed(bad)}", fix)


@rule("invalidated", "A run was marked as not to be relied on.")
def invalidated(case: Case) -> Iterator[Finding]:
    for arm, run in case.runs():
        if (why := run.get("invalid")) is not None:
            what = f"{run.run_id} was invalidated: {why}"
            yield Finding("invalidated", "unmet", (arm.name,), what, "repeat the run")


@rule("same-run", "One run is in two arms.")
def same_run(case: Case) -> Iterator[Finding]:
    owners: dict[tuple[str, str], list[str]] = {}
    for arm, run in case.runs():
        owners.setdefault((run.origin, run.run_id), []).append(arm.name)
    for (_, run_id), arms in owners.items():
        if len(arms) > 1:
            yield Finding("same-run", "unmet", tuple(arms), f"{run_id} is in {' and '.join(arms)}")


@rule("metric", "A run lacks the metric, or its value is no number that can be compared.")
def metric(case: Case) -> Iterator[Finding]:
    yield from contradicted(case, "value", "metric")
    for arm in case.arms:
        bad = [f"{run.run_id} ({shown(run.get('value'))})" for run in arm.runs if not _usable(run, case)]
        if bad:
            needs = "above 0, since the effect is relative" if _is_relative(case) else "a finite number"
            what = f"{case.claim.metric} must be {needs}: {listed(bad)}"
            fix = "torchstone runs show RUN lists the metrics of a run"
            yield Finding("metric", "unmet", (arm.name,), what, fix)


def _usable(run: RecordedRun, case: Case) -> bool:
    value = run.get("value")
    is_finite = isinstance(value, int | float) and math.isfinite(value)
    return is_finite and (value > 0 or not _is_relative(case))


def _is_relative(case: Case) -> bool:
    return case.claim.size.scale == "relative"


@rule("method", "An arm is called by two names.")
def method(case: Case) -> Iterator[Finding]:
    yield from contradicted(case, "method", "method")
    for arm in case.arms:
        called = distinct(arm, "method")
        if len(called) > 1:
            yield Finding("method", "varies", (arm.name,), f"{arm.name} is called {' and '.join(called)}")


@rule("stated", "Never refuses: facts are what the claim file says; no record of the runs was seen.")
def stated(case: Case) -> Iterator[Finding]:
    arms = [arm for arm in case.arms if any(run.origin == "claim" for run in arm.runs)]
    if arms:
        what = "facts are stated by the claim file; no record of the runs was seen"
        yield Finding("stated", "unmet", names(arms), what, refuses=False)
