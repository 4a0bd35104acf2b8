"""The check of a stranger's model: tell what its code could do, then run the job wholly in the worker.

What comes back was written by a process that ran the stranger's code: it is read as data and checked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchstone._errors import ModelError
from torchstone.checks.report import CheckReport, from_dict

_LEAST_WALL_S = 180.0
"""A worker on a busy machine needs a while to import torch before the budget counts."""


def run_stranger(
    arguments: dict[str, Any], *, budget_s: float, tell: Callable[[str], None] | None = None
) -> CheckReport:
    """The report of `torchstone.checks.run:job`, with the walls that held and what the code could do."""
    from torchstone.adapt.isolate import Limits, run_isolated

    target = str(arguments["target"])
    seen = capabilities(target)
    if tell:
        tell(f"{target} is a stranger's code. Its syntax tree shows:")
        for line in seen:
            tell(f"  {line}")
    limits = Limits(wall_s=max(_LEAST_WALL_S, 5 * budget_s))
    with tempfile.TemporaryDirectory(prefix="torchstone-check-") as folder:
        result = run_isolated("torchstone.checks.run:job", arguments, Path(folder), limits)
    if tell:
        tell(f"isolated by: {'; '.join(result.held) or 'nothing'}")
        if result.missing:
            tell(f"absent on this machine: {'; '.join(result.missing)}")
    isolation = {
        "held": list(result.held),
        "missing": list(result.missing),
        "blocked": list(result.blocked),
        "capabilities": seen,
    }
    try:
        report = from_dict(result.value)
    except (KeyError, TypeError, AttributeError) as broken:
        raise ModelError(
            f"the worker's answer for {target} is not a report",
            why=f"{type(broken).__name__}: {broken}; the model's code may have tampered with it",
        ) from None
    return replace(report, model=report.model | {"target": target, "isolation": isolation})


def capabilities(target: str) -> list[str]:
    """What the file of a target imports and could do, from its syntax tree; nothing of it is run."""
    from torchstone.adapt.capability import read_capabilities
    from torchstone.adapt.stage import source_of
    from torchstone.adapt.target import parse_target

    source = source_of(parse_target(target))
    return read_capabilities(source).lines() if source else ["no single source file to read"]
