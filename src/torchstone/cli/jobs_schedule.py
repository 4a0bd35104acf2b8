"""`torchstone jobs schedule`: jobs that come again by the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from torchstone.cli import jobs
from torchstone.cli.jobs import Config, Data, Kind, Priority, Retries, Set, Target
from torchstone.cli.session import Json, Quiet, Verbose, Where, console, print_json, start_logging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchstone.study.schedule import Schedule, TrainingScheduler

app = typer.Typer(help="Jobs that come again by the clock; workers make them.", no_args_is_help=True)
jobs_app = jobs.app
"""`torchstone jobs` with `schedule` in it."""
jobs_app.add_typer(app, name="schedule")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


@app.command("create")
def create(
    name: Name,
    kind: Kind,
    cron: Annotated[str, typer.Option("--cron", help="minute hour day month weekday: '0 2 * * *'.")],
    timezone: Annotated[str, typer.Option("--timezone", help="Such as Europe/Berlin.")] = "UTC",
    target: Target = None,
    data: Data = None,
    set_: Set = None,
    config: Config = None,
    priority: Priority = 5,
    max_retries: Retries = 3,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Make a schedule. Fires that no worker was there for become one job.

    Example:  torchstone jobs schedule create nightly evaluation --cron '0 2 * * *' --target runs/first
    """
    start_logging(quiet, verbose)
    told = jobs.config_of(config, target=target, data=data, set_=set_)
    made = _scheduler(store, make=True).create_schedule(
        name, kind, told, cron, priority, timezone=timezone, max_retries=max_retries
    )
    return _list([made], as_json)


@app.command("list")
def list_schedules(
    enabled_only: Annotated[bool, typer.Option("--enabled-only", help="Only those that are on.")] = False,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List schedules.

    Example:  torchstone jobs schedule list
    """
    start_logging(quiet, verbose)
    return _list(_scheduler(store).list_schedules(enabled_only), as_json)


@app.command("enable")
def enable(
    name: Name, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Turn a schedule on; what was due while it was off stays undone.

    Example:  torchstone jobs schedule enable nightly
    """
    start_logging(quiet, verbose)
    return _list([_scheduler(store).enable_schedule(name)], as_json)


@app.command("disable")
def disable(
    name: Name, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Turn a schedule off.

    Example:  torchstone jobs schedule disable nightly
    """
    start_logging(quiet, verbose)
    return _list([_scheduler(store).disable_schedule(name)], as_json)


@app.command("delete")
def delete(
    name: Name, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Forget a schedule; jobs that it made stay.

    Example:  torchstone jobs schedule delete nightly
    """
    start_logging(quiet, verbose)
    scheduler = _scheduler(store)
    scheduler.delete_schedule(name)
    return _list(scheduler.list_schedules(), as_json)


def _scheduler(store: str | None, *, make: bool = False) -> TrainingScheduler:
    from torchstone.study.schedule import TrainingScheduler

    return TrainingScheduler(jobs._queue(store, make=make))


def _list(schedules: Sequence[Schedule], as_json: bool) -> int:
    if as_json:
        print_json({"schema": "torchstone.schedules/1", "schedules": [each.to_dict() for each in schedules]})
        return 0
    if not schedules:
        console().print("no schedules")
        return 0
    from rich.table import Table

    table = Table("name", "kind", "cron", "zone", "next", "last", "job", "missed", box=None, pad_edge=False)
    for each in schedules:
        last_job = "" if each.last_job is None else str(each.last_job)
        following = each.next_run or "off"
        table.add_row(
            each.name, each.kind, each.cron, each.timezone, following, each.last_run or "", last_job,
            str(each.missed),
        )  # fmt: skip
    console().print(table)
    return 0
