"""Whether the arms were trained equally long, ended by the same thing, and where their schedule ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torchstone.study.claim.findings import (
    Case,
    Finding,
    compared,
    contradicted,
    listed,
    names,
    rule,
    shown,
    unstated,
)
from torchstone.study.claim.recorded import RecordedRun

SLOWER = 1.1
"""A candidate whose every run took so many times as long as every run of the baseline paid for its gain."""


@rule("tokens", "The arms were trained on different amounts: tokens, or steps where tokens are not recorded.")
def tokens(case: Case) -> Iterator[Finding]:
    yield from contradicted(case, "tokens", "tokens")
    yield from contradicted(case, "steps", "tokens")
    fact = "tokens" if all(run.get("tokens") is not None for _, run in case.runs()) else "steps"
    lacking = [arm for arm in case.arms if any(run.get(fact) is None for run in arm.runs)]
    if lacking:
        what = f"neither tokens nor steps are recorded in {listed(names(lacking))}"
        yield Finding("tokens", "unrecorded", names(lacking), what)
    if case.claim.budget == "tokens":
        found = compared(case, fact, "tokens", fix='train equally long; or budget = "time"')
        yield from (each for each in found if each.kind in ("differs", "varies"))


@rule("time", 'The arms were given different times, where the claim says budget = "time".')
def time(case: Case) -> Iterator[Finding]:
    if case.claim.budget == "time":
        for each in compared(case, "seconds", "time"):
            yield replace(each, refuses=True)  # what the arms share must be known
        return
    yield from contradicted(case, "seconds", "time")
    yield from unstated(case, "seconds", "time")
    spent = {arm.name: [run.get("seconds") for run in arm.runs if run.get("seconds")] for arm in case.arms}
    base = spent[case.baseline.name]
    for arm in names(case.arms[1:]):
        if base and spent[arm] and min(spent[arm]) > SLOWER * max(base):
            ratio = (sum(spent[arm]) / len(spent[arm])) / (sum(base) / len(base))
            what = f"{arm} took {ratio:.2g} times as long as {case.baseline.name}"
            yield Finding("time", "differs", (case.baseline.name, arm), what, refuses=False)


@rule("stop-rule", "Different things ended the runs: steps, early stopping, a clock that not all arms share.")
def stop_rule(case: Case) -> Iterator[Finding]:
    yield from compared(case, "stop_rule", "stop-rule")
    timed = [arm for arm in case.arms if any(run.ended_by_the_clock for run in arm.runs)]
    if timed and case.claim.budget != "time":
        what = f"a time budget ended runs of {listed(names(timed))}: they compare with the same budget only"
        fix = 'give all arms the same train.max_time_s and say budget = "time"; or let the runs finish'
        yield Finding("stop-rule", "unmet", names(timed), what, fix)


@rule("schedule-end", "A run ended before its learning-rate or pruning schedule did.")
def schedule_end(case: Case) -> Iterator[Finding]:
    yield from contradicted(case, "planned_steps", "schedule-end")
    yield from unstated(case, "planned_steps", "schedule-end")
    for arm in case.arms:
        odd = [run for run in arm.runs if _is_elsewhere(run) and not (case.budgeted(run) and _is_level(run))]
        if odd:
            told = [
                f"{run.run_id} ({shown(run.get('steps'))} of {shown(run.get('planned_steps'))} steps)"
                for run in odd
            ]
            what = f"stopped where the schedule does not end: {listed(told)}"
            fix = "plan the schedule for the steps that are taken (train.max_steps)"
            if any(case.budgeted(run) for run in odd):
                fix += "; under a time budget, take optim.schedule=constant"
            yield Finding("schedule-end", "unmet", (arm.name,), what, fix)


def _is_elsewhere(run: RecordedRun) -> bool:
    steps, planned = run.get("steps"), run.get("planned_steps")
    return steps is not None and planned is not None and steps != planned


def _is_level(run: RecordedRun) -> bool:
    """Whether nothing was still to come: a constant rate after its warm-up, and masks that stay."""
    if run.config.get("optim.schedule") != "constant":
        return False
    done = run.get("steps") / run.get("planned_steps")
    pruned = run.config.get("prune.method", "none") != "none"
    return done >= max(run.config.get("optim.warmup_ratio", 0), run.config.get("prune.end", 1) * pruned)
