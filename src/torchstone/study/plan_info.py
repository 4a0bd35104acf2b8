"""A plan as a plain object, for `study show --json` and for whoever draws it."""

from __future__ import annotations

from typing import Any

from torchstone.study.plan import Plan

SCHEMA = "torchstone.study/1"


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
