"""A plan as a plain object, for `study show --json` and for whoever draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchstone.study.plan import Plan

if TYPE_CHECKING:
    from torchstone.study.cells import CellState
    from torchstone.study.run import Outcome

SCHEMA = "torchstone.study/1"
CELLS_SCHEMA = "torchstone.study-cells/1"


def plan_info(plan: Plan) -> dict[str, Any]:
    """The object that `study show --json` prints."""
    study = plan.study
    return {
        "schema": SCHEMA,
        "study": study.name,
        "kind": study.kind,
        "path": str(study.path),
        "base": study.base,
        "describe": study.describe,
        "metric": study.metric,
        "seeds": list(study.seeds),
        "arms": [
            {
                "id": arm.id,
                "parent": arm.parent,
                "name": arm.name,
                "describe": arm.describe,
                "set": dict(arm.set),
                "claims": dict(arm.claims),
            }
            for arm in plan.chosen_arms
        ],
        "dropped": [{"id": each.id, "reason": each.reason} for each in plan.dropped],
        "cells": [
            {"id": cell.id, "arm": cell.arm, "seed": cell.seed, "name": cell.name} for cell in plan.cells
        ],
    }


def dropped_sentence(plan: Plan) -> str:
    """`dropped 6 of 24: AdamWPrune prunes by its own state (4); ...`, or nothing."""
    if not plan.dropped:
        return ""
    counts: dict[str, int] = {}
    for each in plan.dropped:
        reason = each.reason.partition(":")[0]
        counts[reason] = counts.get(reason, 0) + 1
    reasons = "; ".join(f"{reason} ({count})" for reason, count in counts.items())
    return f"dropped {len(plan.dropped)} of {plan.combinations}: {reasons}"


def cells_info(outcome: Outcome) -> dict[str, Any]:
    """The object that `study run --json` and `study status --json` print."""
    ending = outcome.ending
    known = {each.cell.id for each in outcome.states}
    waiting = [each for each in outcome.plan.cells if each.id not in known]
    return {
        "schema": CELLS_SCHEMA,
        "study": outcome.plan.study.name,
        "metric": outcome.plan.study.metric,
        "reason": None if ending is None else ending.reason,
        "counts": counts_of(outcome),
        "cells": [
            *(_cell_info(each) for each in outcome.states),
            *({"id": each.id, "arm": each.arm, "seed": each.seed, "status": "new"} for each in waiting),
        ],
    }


def _cell_info(state: CellState) -> dict[str, Any]:
    result = state.result or {}
    return {
        "id": state.cell.id,
        "arm": state.cell.arm,
        "seed": state.cell.seed,
        "status": state.status,
        "run_id": result.get("run_id"),
        "run_dir": str(state.run_dir),
        "steps": result.get("steps"),
        "tokens": result.get("tokens"),
        "final": result.get("final"),
        "best": result.get("best"),
        "seconds": state.job.seconds,
        "tries": state.job.tries,
        "error": state.error,
    }


def counts_of(outcome: Outcome) -> dict[str, int]:
    """Cells by status; `new` ones were never entered."""
    counts: dict[str, int] = {}
    for each in outcome.states:
        counts[each.status] = counts.get(each.status, 0) + 1
    if new := len(outcome.plan.cells) - len(outcome.states):
        counts["new"] = new
    return counts


def metric_of(state: CellState, metric: str) -> float | None:
    """The study's metric of a cell that is done: as it was last measured, or derived from that."""
    final = (state.result or {}).get("final") or {}
    value = final.get(metric)
    if (
        value is None
        and metric.endswith("/perplexity")
        and final.get(loss := metric.replace("perplexity", "loss"))
    ):
        from torchstone.train.result import perplexity

        return perplexity(float(final[loss]))
    return None if value is None else float(value)
