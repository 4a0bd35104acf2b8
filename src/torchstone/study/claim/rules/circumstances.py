"""Whether data, measurement, machines and batches were the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchstone.study.claim.findings import Case, Finding, compared, listed, names, rule
from torchstone.study.claim.recorded import RecordedRun


@rule("data", "The training data differs.")
def data(case: Case) -> Iterator[Finding]:
    yield from compared(case, "data", "data")
    counted = [arm for arm in case.arms if any(_is_count(run.get("data")) for run in arm.runs)]
    if counted:
        what = "the data is known by the number of its examples only"
        fix = "train from a source, or give the dataset a fingerprint"
        yield Finding("data", "unrecorded", names(counted), what, fix, refuses=False)


def _is_count(data: Any) -> bool:
    return isinstance(data, str) and data.startswith("examples/") and data.count("/") == 1


@rule("evaluation", "The metric is measured on other data, in another way, or not at the end of the run.")
def evaluation(case: Case) -> Iterator[Finding]:
    yield from compared(case, "evaluation", "evaluation")
    if case.claim.at == "best":
        what = "the best value over a run is chosen on the data that it is measured on"
        yield Finding("evaluation", "unmet", names(case.arms), what, 'at = "end"', refuses=False)
        return
    for arm in case.arms:
        stale = [run for run in arm.runs if _is_stale(run)]
        # The clock does not wait for a validation: the last one within the budget is what there is.
        refuses = not all(case.budgeted(run) for run in stale)
        if stale:
            told = [f"{run.run_id} (step {run.get('metric_step')} of {run.get('steps')})" for run in stale]
            what = f"{case.claim.metric} was not measured at the end: {listed(told)}"
            yield Finding("evaluation", "unmet", (arm.name,), what, refuses=refuses)


def _is_stale(run: RecordedRun) -> bool:
    at, steps = run.get("metric_step"), run.get("steps")
    return at is not None and steps is not None and at != steps


@rule("hardware", "The arms ran on other devices.")
def hardware(case: Case) -> Iterator[Finding]:
    yield from compared(case, "hardware", "hardware")


@rule("software", "Versions of torch, CUDA, Python or torchstone differ.")
def software(case: Case) -> Iterator[Finding]:
    yield from compared(case, "software", "software")


@rule("compile-status", "One arm was compiled, or made quicker by other levers, and another not.")
def compile_status(case: Case) -> Iterator[Finding]:
    yield from compared(case, "compile_status", "compile-status")


@rule("effective-batch", "Examples per update differ, or two numbers of them are given for one run.")
def effective_batch(case: Case) -> Iterator[Finding]:
    yield from compared(case, "effective_batch", "effective-batch")
