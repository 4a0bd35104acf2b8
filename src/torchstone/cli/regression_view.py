"""What `torchstone runs compare A B --regression` does and shows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from torchstone._errors import UsageError
from torchstone.cli.session import console, print_json

if TYPE_CHECKING:
    from torchstone.train.regression_testing import Regression


def show_regression(
    runs: Sequence[str],
    *,
    data: str | None,
    max_samples: int | None,
    false_alarms: float | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Exit code 1 if the second run is worse than the first."""
    if len(runs) != 2:
        raise UsageError(
            f"{len(runs)} runs were named", why="a regression is between two: the baseline and the candidate"
        )
    from torchstone.train.regression_testing import FALSE_ALARMS, compare_runs

    rate = FALSE_ALARMS if false_alarms is None else false_alarms
    with redirect_stdout(sys.stderr):  # what a model prints is not our result
        found = compare_runs(*runs, data=data, max_samples=max_samples, false_alarms=rate, device=device)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found, quiet)
    return 1 if found.verdict == "regressed" else 0


def _show(found: Regression, quiet: bool) -> None:
    out = console()
    out.print(f"{found.verdict}: {found.candidate} against {found.baseline}", markup=False, soft_wrap=True)
    for name, each in found.metrics.items():
        low, high = each.interval
        out.print(
            f"  {name:14} {each.baseline:10.4f} -> {each.candidate:10.4f}   {each.delta:+.4f} "
            f"[{low:+.4f}, {high:+.4f}]  {each.status}",
            markup=False,
        )
    if not quiet:
        out.print(
            f"  {found.units:,} {found.unit} of {found.data} ({found.split}); {found.method}", markup=False
        )
    for note in found.notes if not quiet else ():
        print(f"note: {note}", file=sys.stderr)
