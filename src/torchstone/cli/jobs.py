"""`torchstone jobs`: a queue of trainings, evaluations, exports, retrainings, and workers that do them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.registry import json_of
from torchstone.cli.session import (
    Device,
    Json,
    Quiet,
    Verbose,
    Where,
    console,
    print_json,
    start_logging,
    whole_numbers,
)

if TYPE_CHECKING:
    from torchstone.study.job_queue import Job, JobManager

app = typer.Typer(
    help="Queue trainings, evaluations, exports and retrainings; work them off.", no_args_is_help=True
)

JobId = Annotated[int, typer.Argument(metavar="JOB", help="The number that `submit` told.")]
Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="training, evaluation, export, retraining ... (jobs kinds).")
]
Config = Annotated[
    str | None,
    typer.Option("--config", metavar="JSON|FILE", help="What the job is told, as JSON or a file of it."),
]
Target = Annotated[str | None, typer.Option("--target", help="The model: a target, a run, a checkpoint.")]
Data = Annotated[str | None, typer.Option("--data", help="The data, where the kind of job takes some.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one knob; may be repeated.")
]
Priority = Annotated[int, typer.Option("--priority", help="1 to 10; 10 goes first.", min=1, max=10)]
Retries = Annotated[int, typer.Option("--max-retries", help="How often a failure is tried again.", min=0)]


@app.command("submit")
def submit(
    kind: Kind,
    target: Target = None,
    data: Data = None,
    set_: Set = None,
    config: Config = None,
    priority: Priority = 5,
    max_retries: Retries = 3,
    after: Annotated[
        str | None, typer.Option("--after", metavar="JOB,JOB", help="Jobs that must be done before.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say whether it would do; enter nothing.")
    ] = False,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Enter a job. What it could not do is refused at once.

    Example:  torchstone jobs submit training --target zoo:gpt-nano --data notes/ --set train.max_steps=500

    Example:  torchstone jobs submit export --target runs/jobs/1 --after 1
    """
    start_logging(quiet, verbose)
    from torchstone.study.kinds.registry import JOB_KINDS

    queue, needs = _queue(store, make=True), whole_numbers("--after", after)
    told = config_of(config, target=target, data=data, set_=set_)
    if dry_run:
        JOB_KINDS.get(kind).prepare(told, queue.store)
        if as_json:
            print_json({"schema": "torchstone.job-plan/1", "kind": kind, "config": told})
        else:
            console().print(f"{kind} {told}: nothing was entered (--dry-run)", markup=False, soft_wrap=True)
        return 0
    job = queue.get_job(queue.submit_job(kind, told, priority, max_retries, needs=needs))
    return _show(queue, job, as_json)


@app.command("kinds")
def kinds(as_json: Json = False) -> int:
    """List the kinds of jobs and what each can be told.

    Example:  torchstone jobs kinds
    """
    from torchstone.study.kinds.registry import JOB_KINDS

    rows = [{"name": each.name, "help": each.help, "keys": list(each.keys)} for each in JOB_KINDS]
    if as_json:
        print_json({"schema": "torchstone.job-kinds/1", "kinds": rows})
        return 0
    for row in rows:
        told = f"{row['name']:12} {row['help']}\n{'':12} {', '.join(row['keys'])}"
        console().print(told, markup=False, soft_wrap=True)
    return 0


@app.command("list")
def list_jobs(
    status: Annotated[
        str | None, typer.Option("--status", help="waiting, running, done, failed or cancelled.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only jobs of this kind.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many, the newest.", min=1)] = 100,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List jobs in the order in which they were entered, and how many of each state there are.

    Example:  torchstone jobs list --status failed
    """
    start_logging(quiet, verbose)
    queue = _queue(store)
    jobs, stats = queue.list_jobs(status, kind, limit), queue.get_queue_stats()
    if as_json:
        rows = [each.to_dict() | {"waiting_for": queue.why_waiting(each)} for each in jobs]
        print_json({"schema": "torchstone.jobs/1", "jobs": rows, "stats": stats})
        return 0
    from rich.table import Table

    from torchstone.report.numbers import duration

    table = Table("job", "kind", "status", "priority", "tries", "time", "about", "", box=None, pad_edge=False)
    for each in jobs:
        what = (each.error or {}).get("what") if each.status == "failed" else queue.why_waiting(each)
        about = next((str(each.config[key]) for key in ("target", "model", "name") if key in each.config), "")
        status = "stopping" if each.stopping else each.status
        table.add_row(
            str(each.job_id), each.kind, status, str(each.priority), str(each.tries),
            duration(each.seconds) if each.seconds else "", about, what or "",
        )  # fmt: skip
    console().print(table if jobs else "no jobs; try:  torchstone jobs submit training --target zoo:gpt-nano")
    console().print(", ".join(f"{count} {name}" for name, count in stats.items()))
    return 0


@app.command("show")
def show(
    job: JobId, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Show one job: what it was told, what came of it, and what was said about it.

    Example:  torchstone jobs show 1
    """
    start_logging(quiet, verbose)
    queue = _queue(store)
    return _show(queue, queue.get_job(job), as_json)


@app.command("logs")
def logs(
    job: JobId, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Show what was said about a job. What it printed itself is in log.txt of its folder.

    Example:  torchstone jobs logs 1
    """
    start_logging(quiet, verbose)
    queue = _queue(store)
    lines = queue.get_job_logs(job)
    if as_json:
        print_json(
            {"schema": "torchstone.job-logs/1", "job_id": job, "lines": [each.to_dict() for each in lines]}
        )
        return 0
    for each in lines:
        console().print(f"{each.at}  {each.level:7}  {each.message}", markup=False, soft_wrap=True)
    return 0


@app.command("cancel")
def cancel(
    job: JobId, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """End a job that waits, or have the worker of one that runs stop it, with its state saved.

    Example:  torchstone jobs cancel 1
    """
    start_logging(quiet, verbose)
    queue = _queue(store)
    if not queue.cancel_job(job):
        raise UsageError(f"job {job} is {queue.get_job(job).status} already", next="torchstone jobs list")
    return _show(queue, queue.get_job(job), as_json)


@app.command("retry")
def retry(
    job: JobId, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Let a job that failed or was cancelled wait once more, with all its tries; a training goes on.

    Example:  torchstone jobs retry 1
    """
    start_logging(quiet, verbose)
    queue = _queue(store)
    if not queue.retry_job(job):
        raise UsageError(
            f"job {job} is {queue.get_job(job).status}",
            why="only what failed or was cancelled is tried again",
        )
    return _show(queue, queue.get_job(job), as_json)


@app.command("worker")
def worker(
    slots: Annotated[int, typer.Option("--jobs", "-j", help="Jobs at a time.", min=1)] = 1,
    max_jobs: Annotated[
        int | None, typer.Option("--max-jobs", help="End when so many were begun.", min=1)
    ] = None,
    poll: Annotated[
        float, typer.Option("--poll", help="Seconds between looks at the queue.", min=0.05)
    ] = 1.0,
    drain: Annotated[bool, typer.Option("--drain", help="End when nothing is left to do.")] = False,
    store: Where = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Work jobs off until Ctrl-C, each in a process of its own; make jobs of schedules that are due.

    Several workers may share a queue. One that is stopped saves what its jobs have done and gives them back.

    Example:  torchstone jobs worker --drain
    """
    start_logging(quiet, verbose)
    from torchstone.study.executor import open_executor
    from torchstone.study.worker import run_worker

    queue, ended = _queue(store, make=True), list[int]()

    def hear(job_id: str, begins: bool) -> None:
        job = queue.get_job(job_id)
        if not begins:
            ended.append(job.job_id)
        if not (quiet or as_json):
            what = "begins" if begins else job.status
            console(stderr=True).print(f"job {job_id} ({job.kind}): {what}", markup=False)

    executor = open_executor("local", jobs=slots, device=device)
    with redirect_stdout(sys.stderr):  # what a model prints is no result
        try:
            ending = run_worker(
                queue, executor, max_jobs=max_jobs, poll_interval=poll, drain=drain, hear=hear
            )
        finally:
            executor.close()
    stats = queue.get_queue_stats()
    if as_json:
        told = {"reason": ending.reason, "exit_code": ending.exit_code, "ended": ended, "stats": stats}
        print_json({"schema": "torchstone.worker/1", **told})
    else:
        counts = ", ".join(f"{count} {name}" for name, count in stats.items())
        console().print(f"{ending.reason}: {counts}", markup=False)
    return ending.exit_code


def config_of(
    config: str | None, *, target: str | None, data: str | None, set_: list[str] | None
) -> dict[str, Any]:
    """What a job is told: `--config`, and the flags on top."""
    from torchstone.cli.settings import assignment

    text = config
    if config and not config.lstrip().startswith("{"):
        if not Path(config).is_file():
            raise UsageError(
                f"--config {config}: there is no such file", next="--config '{\"key\": 1}' or a file"
            )
        text = Path(config).read_text(encoding="utf-8")
    told = json_of("--config", text)
    told |= {key: value for key, value in (("target", target), ("data", data)) if value is not None}
    if set_:
        told["set"] = {**(told.get("set") or {}), **dict(assignment(each) for each in set_)}
    return told


def _queue(store: str | None, *, make: bool = False) -> JobManager:
    from torchstone.study.job_queue import JobManager
    from torchstone.tracking.store import Store

    if not make:
        Store.open(store, readonly=True).close()  # looking at jobs is not what makes a store
    return JobManager(store)


def _show(queue: JobManager, job: Job, as_json: bool) -> int:
    waiting_for = queue.why_waiting(job)
    if as_json:
        print_json({"schema": "torchstone.job/1", **job.to_dict(), "waiting_for": waiting_for})
        return 0
    lines = {
        "job": f"{job.job_id} ({job.kind}): {'stopping' if job.stopping else job.status}",
        "waits for": waiting_for,
        "told": ", ".join(f"{key}={value}" for key, value in job.config.items()),
        "folder": job.run_dir,
        "tries": f"{job.tries} (again after a failure: {job.max_retries})",
        "began": job.started_at,
        "ended": job.completed_at,
        "error": (job.error or {}).get("what"),
    }
    for key, value in lines.items():
        if value:
            console().print(f"{key:10} {value}", markup=False, soft_wrap=True)
    return 0
