"""Proofs of a model, in tiers: small functions `(Context) -> CheckResult`, a runner, a report."""

from __future__ import annotations

from torchstone._lazy import lazily

__all__ = ["CHECKS", "Check", "CheckReport", "Context", "ProbePlan"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CHECKS": "torchstone.checks.registry",
        "Check": "torchstone.checks.registry",
        "CheckReport": "torchstone.checks.report",
        "Context": "torchstone.checks.context",
        "ProbePlan": "torchstone.checks.plan",
    },
)
