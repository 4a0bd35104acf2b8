"""parameter-initialization: every parameter has values that suit its role and size."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.backward import backward
from torchstone.checks.tier1.roles import Verdict, judge, named_owners

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

_SHOWN = 20

NEXT_TO_NOTHING = 1e-4
"""Part of the expected standard deviation."""


def parameter_initialization(context: Context) -> CheckResult:
    verdicts = [
        judge(name, parameter, owner, own) for name, parameter, owner, own in named_owners(context.module)
    ]
    verdicts = _with_learning_zeros(context, verdicts)
    if not verdicts:
        return context.skipped("the model has no parameters")
    bad = [each for each in verdicts if each.status == "fail"]
    odd = [each for each in verdicts if each.status == "warn"]
    # One such matrix may be meant (the last of a branch); a model made of them is not.
    zeros = [
        each
        for each in odd
        if each.role == "linear" and each.ratio is not None and each.ratio < NEXT_TO_NOTHING
    ]
    maps = [each for each in verdicts if each.role == "linear"]
    if zeros and len(zeros) > len(maps) // 2:
        return context.failed(
            f"{len(zeros)} of {len(maps)} weight matrices are zero or next to it: nothing passes "
            "through them",
            measured=float(len(zeros)),
            limit=len(maps) / 2,
            unit="matrices",
            module=owner_of(zeros[0].name),
            hint="zero at most the last matrix of a residual branch; draw the others",
            details=_evidence(bad + odd),
        )
    roles = {
        role: sum(each.role == role for each in verdicts) for role in ("linear", "table", "vector", "other")
    }
    counted = ", ".join(f"{number} {role}" for role, number in roles.items() if number)
    if bad:
        return context.failed(
            f"{len(bad)} of {len(verdicts)} parameters have impossible values; {bad[0].name}: "
            f"{bad[0].reason}",
            measured=float(len(bad)),
            limit=0.0,
            unit="parameters",
            module=owner_of(bad[0].name),
            hint=_hint(bad[0]),
            details=_evidence(bad + odd),
        )
    if odd:
        return context.warned(
            f"{len(odd)} of {len(verdicts)} parameters look odd; {odd[0].name}: {odd[0].reason}",
            measured=float(len(odd)),
            limit=0.0,
            unit="parameters",
            module=owner_of(odd[0].name),
            hint=_hint(odd[0]),
            details=_evidence(odd),
        )
    return context.passed(
        f"all {len(verdicts)} parameters suit their role ({counted})",
        measured=0.0,
        limit=0.0,
        unit="parameters",
        details={"roles": roles},
    )


def _with_learning_zeros(context: Context, verdicts: list[Verdict]) -> list[Verdict]:
    """A few zero matrices that get a gradient are a design: the branches that they end start as nothing."""
    zeros = {each.name for each in verdicts if each.role == "linear" and each.ratio == 0.0}
    maps = sum(each.role == "linear" for each in verdicts)
    if not zeros or len(zeros) > maps // 2:
        return verdicts
    silent = set(backward(context, context.batch()).silent())
    return [
        replace(each, status="pass") if each.name in zeros and each.name not in silent else each
        for each in verdicts
    ]


def owner_of(name: str) -> str:
    """The module that holds the parameter `name`."""
    return name.rpartition(".")[0]


def _evidence(found: list[Verdict]) -> dict[str, object]:
    return {"parameters": [asdict(each) for each in found[:_SHOWN]], "more": max(0, len(found) - _SHOWN)}


def _hint(verdict: Verdict) -> str:
    if "NaN" in verdict.reason:
        return "made with torch.empty or spoilt by training: initialise it or go back to a checkpoint"
    if "stay equal" in verdict.reason or "distinct" in verdict.reason:
        return "draw the rows, e.g. nn.init.normal_(weight, std=0.02)"
    if "zero" in verdict.reason:
        return "a zero start is right only for the last matrix of a residual branch"
    return "scale the values, e.g. nn.init.normal_(weight, std=0.02) or 1 / sqrt(fan_in)"


CHECKS.add(
    Check(
        "parameter-initialization",
        tier=1,
        title="initial values",
        proves="Every parameter holds values that suit its role and its size.",
        run=parameter_initialization,
    )
)
