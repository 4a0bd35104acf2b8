"""`torchstone study estimate`: what a study will cost, before it does."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING

from torchstone._errors import UsageError
from torchstone.cli import study_run
from torchstone.cli.check import Progress
from torchstone.cli.session import Json, Quiet, Verbose, console, print_json, start_logging
from torchstone.cli.study_choice import takes_study

if TYPE_CHECKING:
    from rich.console import RenderableType

    from torchstone.study.estimate import Estimate
    from torchstone.study.run import StudyJob
    from torchstone.tracking.store import Store

app = study_run.app


@app.command("estimate", epilog="Example:  torchstone study estimate widths")
@takes_study
def estimate(
    job: StudyJob,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Say what each arm holds and computes, and how long it takes where runs like it are in the store."""
    start_logging(quiet, verbose)
    from torchstone.study.estimate import estimate as measured
    from torchstone.study.run import planned

    plan, show = planned(job), Progress(quiet)
    with redirect_stdout(sys.stderr), _runs_so_far() as store:
        found = measured(plan, store, tell=show.line)
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(_table(found))


def _runs_so_far() -> AbstractContextManager[Store | None]:
    """The store, if there is one yet: an estimate leaves none behind."""
    from torchstone.tracking.store import Store

    try:
        return Store.open(readonly=True)
    except UsageError:
        return nullcontext()


def _table(found: Estimate) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    units = "/".join(dict.fromkeys(each.unit for each in found.arms))
    heads = ("id", "cells", "parameters", "memory", "KV bytes/token", units, "FLOPs", "time of a cell")
    table = Table(*heads, box=None, pad_edge=False)
    for each in found.arms:
        cache = "" if each.kv_bytes_per_token is None else f"{each.kv_bytes_per_token:,}"
        table.add_row(
            escape(each.id),
            str(each.cells),
            f"{each.parameters:,}",
            _size(each.memory_bytes),
            cache,
            "" if each.tokens is None else _count(each.tokens),
            "" if each.flops is None else f"{each.flops:.3g}",
            "unknown" if each.seconds is None else _duration(each.seconds),
        )
    reasons = dict.fromkeys(each.basis for each in found.arms)
    lines = [Text(f"time: {each}") for each in reasons]
    if found.seconds is not None:
        lines.append(Text(f"all cells, one after the other: {_duration(found.seconds)}"))
    lines.append(Text("memory: weights, gradients and the optimizer's state; activations come on top"))
    energy = found.energy_joules
    lines.append(
        Text("energy: unknown, because not every arm has a run like it that had a meter (RAPL, NVML)")
        if energy is None
        else Text(
            f"energy of all cells: {energy / 3.6e6:.3g} kWh ({energy:,.0f} J), by the meters of such runs"
        )
    )
    return Group(table, *lines)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:.2f} GiB"


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**7 else f"{number:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
