"""`torchstone registry`: which models there are, where each came from, and which is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.session import (
    Json,
    Quiet,
    Verbose,
    Where,
    Yes,
    console,
    open_store,
    print_json,
    split_commas,
    start_logging,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchstone.tracking.model_registry import ModelRegistry
    from torchstone.tracking.registered_model import RegisteredModel

app = typer.Typer(help="Register models, promote one, see where it came from.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME@VERSION, NAME@TAG or a number.")]


@app.command("register")
def register(
    target: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder or a checkpoint.")],
    name: Annotated[str, typer.Option("--name", help="Name of the model.")],
    version: Annotated[
        str | None, typer.Option("--version", help="Default: the next whole number of this name.")
    ] = None,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="MODEL", help="The model it was made from.")
    ] = None,
    tags: Annotated[str | None, typer.Option("--tags", help="TAG,TAG: words to find it by.")] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="JSON", help='More metrics: {"accuracy": 0.9}.')
    ] = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", metavar="JSON", help="Anything else worth keeping.")
    ] = None,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Enter the model of a run: its best checkpoint, or the one named. Every file is hashed.

    Example:  torchstone registry register runs/first --name notes --tags candidate
    """
    start_logging(quiet, verbose)
    from torchstone.adapt.saved import checkpoint_of
    from torchstone.adapt.target import parse_target
    from torchstone.tracking.register_run import register_checkpoint

    found = parse_target(target)
    if found.kind not in ("run", "checkpoint"):
        raise UsageError(
            f"{target} is neither a run nor a checkpoint", next="torchstone train TARGET --run-dir DIR"
        )
    checkpoint = checkpoint_of(found)
    registry = _registry(store)
    model_id = register_checkpoint(
        registry, checkpoint, name, version, tags=split_commas(tags), metrics=json_of("--metrics", metrics),
        metadata=json_of("--metadata", metadata),
        parent_model_id=None if parent is None else registry.find(parent).model_id,
    )  # fmt: skip
    return _show(registry.find(str(model_id)), as_json)


@app.command("list")
def list_models(
    task: Annotated[str | None, typer.Option("--task", help="Only models of this task.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only models with this tag.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Text in name, tags, paths, run, data or metadata.")
    ] = None,
    status: Annotated[str, typer.Option("--status", help="active, retired or all.")] = "active",
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="KEY", help="With --min or --max.")
    ] = None,
    least: Annotated[float | None, typer.Option("--min", help="At least this value of --metric.")] = None,
    most: Annotated[float | None, typer.Option("--max", help="At most this value of --metric.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many, newest first.", min=1)] = 50,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List models, newest first.

    Example:  torchstone registry list --task causal-lm --metric val/loss --max 1.5
    """
    start_logging(quiet, verbose)
    if status not in ("active", "retired", "all"):
        raise UsageError(f"there is no status {status!r}", next="--status active, retired or all")
    models = _registry(store).list_models(
        task, tag, None if status == "all" else status, least, metric, limit,
        max_metric_value=most, search=search,
    )  # fmt: skip
    return _list(models, as_json)


@app.command("show")
def show(
    model: Model, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Show one model: files, metrics, origin, exports.

    Example:  torchstone registry show notes@production
    """
    start_logging(quiet, verbose)
    return _show(_registry(store).find(model), as_json)


@app.command("promote")
def promote(
    model: Model,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="Such as candidate or production.")],
    keep_others: Annotated[
        bool, typer.Option("--keep-others", help="Leave the tag with other versions of the name too.")
    ] = False,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Give a tag to a model; other versions of its name lose it. Its files are verified first.

    Example:  torchstone registry promote notes@3 production
    """
    start_logging(quiet, verbose)
    registry = _registry(store)
    found = registry.find(model)
    problems = registry.verify_model(found.model_id)
    if problems:
        from torchstone._errors import TorchstoneError

        raise TorchstoneError(
            f"{found.label} is not what was registered", why="; ".join(problems), where=found.checkpoint_path,
            next="register the checkpoint again if it was changed on purpose",
        )  # fmt: skip
    registry.promote_model(found.model_id, tag, remove_from_others=not keep_others)
    return _show(registry.find(str(found.model_id)), as_json)


@app.command("retire")
def retire(
    model: Model, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Take a model out of use: its tags go, and it is listed with --status retired.

    Example:  torchstone registry retire notes@1
    """
    start_logging(quiet, verbose)
    registry = _registry(store)
    found = registry.find(model)
    registry.retire_model(found.model_id)
    return _show(registry.find(str(found.model_id)), as_json)


@app.command("lineage")
def lineage(
    model: Model, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Show what a model was made from, the oldest first.

    Example:  torchstone registry lineage notes@production
    """
    start_logging(quiet, verbose)
    registry = _registry(store)
    return _list(registry.get_model_lineage(registry.find(model).model_id), as_json)


@app.command("compare")
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL...", help="Two or more models.")],
    metrics: Annotated[str | None, typer.Option("--metrics", help="KEY,KEY; default: all.")] = None,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Compare models by the metrics that they were registered with.

    Example:  torchstone registry compare notes@2 notes@3 --metrics val/loss
    """
    start_logging(quiet, verbose)
    registry = _registry(store)
    rows = registry.compare_models([registry.find(each).model_id for each in models], split_commas(metrics))
    if as_json:
        print_json({"schema": "torchstone.registry-compare/1", "models": rows})
        return 0
    from rich.table import Table

    from torchstone.report.numbers import number

    table = Table("", *(f"{row['name']}@{row['version']}" for row in rows), box=None, pad_edge=False)
    for key in list(rows[0])[3:]:
        values = [row[key] for row in rows]
        table.add_row(key, *(number(each) if isinstance(each, float) else str(each or "") for each in values))
    console().print(table)
    return 0


@app.command("verify")
def verify(
    model: Model, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Hash the files of a model and its exports again. Exit code 1: one is missing or changed.

    Example:  torchstone registry verify notes@production
    """
    start_logging(quiet, verbose)
    registry = _registry(store)
    found = registry.find(model)
    problems = registry.verify_model(found.model_id)
    verdict = "fail" if problems else "pass"
    if as_json:
        told = {"model": found.label, "model_id": found.model_id, "verdict": verdict, "problems": problems}
        print_json({"schema": "torchstone.registry-verify/1", **told})
    else:
        told_files = len(found.files) + sum(len(each.files) for each in found.exports)
        lines = problems or [f"all {told_files} files are as registered"]
        for each in lines:
            console().print(f"{verdict}: {found.label}: {each}", markup=False, soft_wrap=True)
    return 1 if problems else 0


@app.command("add-export")
def add_export(
    model: Model,
    form: Annotated[str, typer.Option("--format", help="Name of the format: bundle, onnx, pt2 ...")],
    path: Annotated[str, typer.Option("--path", help="Where it lies: a file or a folder.")],
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Say where an export of a model lies; its files are hashed.

    Example:  torchstone registry add-export notes@3 --format onnx --path bundles/notes/model.onnx
    """
    start_logging(quiet, verbose)
    registry = _registry(store)
    found = registry.find(model)
    registry.add_export_format(found.model_id, form, path)
    return _show(registry.find(str(found.model_id)), as_json)


@app.command("delete")
def delete(
    model: Model,
    force: Annotated[bool, typer.Option("--force", help="Even if it holds tags.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; delete nothing.")] = False,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Forget a model. Its files stay where they are; to be done needs --yes.

    Example:  torchstone registry delete notes@1 --dry-run
    """
    start_logging(quiet, verbose)
    if not (dry_run or yes):
        raise UsageError("a deletion cannot be taken back", next="--dry-run shows it, --yes does it")
    registry = _registry(store)
    done = registry.delete_model(registry.find(model).model_id, force, dry_run)
    told = done.to_dict()
    if as_json:
        print_json({"schema": "torchstone.registry-delete/1", **told})
        return 0
    exports = f", {len(told['exports'])} exports" if told["exports"] else ""
    heirs = f"; {len(done.children)} models that were made from it get its parent" if done.children else ""
    verb = "deleted" if done.done else "would delete"
    screen = console()
    screen.print(f"{verb} the entry of {told['label']}{exports}{heirs}", markup=False, soft_wrap=True)
    screen.print(f"its files stay: {', '.join(told['files_kept'])}", markup=False, soft_wrap=True)
    return 0


def json_of(flag: str, text: str | None) -> dict[str, Any]:
    """The JSON object that a flag was given; empty where it was not."""
    import json

    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise UsageError(f"{flag} is no JSON", why=str(error), next=f"{flag} '{{\"key\": 1}}'") from None
    if not isinstance(found, dict):
        raise UsageError(f"{flag} is no JSON object", next=f"{flag} '{{\"key\": 1}}'")
    return found


def _registry(store: str | None) -> ModelRegistry:
    from torchstone.tracking.model_registry import ModelRegistry

    return ModelRegistry(open_store(store, readonly=False))


def _list(models: Sequence[RegisteredModel], as_json: bool) -> int:
    if as_json:
        print_json({"schema": "torchstone.registry/1", "models": [each.to_dict() for each in models]})
        return 0
    if not models:
        console().print("no such model; try:  torchstone registry register RUN --name NAME")
        return 0
    from rich.table import Table

    table = Table(
        "id", "model", "tags", "task", "MB", "run", "made from", "created", box=None, pad_edge=False
    )
    for each in models:
        parent = "" if each.parent_model_id is None else str(each.parent_model_id)
        tags = ", ".join(each.tags) if each.status == "active" else each.status
        size = f"{each.model_size_mb:,.1f}"
        table.add_row(
            str(each.model_id), each.label, tags, each.task_type, size, each.training_run_id or "", parent,
            each.created_at,
        )  # fmt: skip
    console().print(table)
    return 0


def _show(model: RegisteredModel, as_json: bool) -> int:
    if as_json:
        print_json({"schema": "torchstone.registry-model/1", "model": model.to_dict()})
        return 0
    from torchstone.report.numbers import number

    metrics = ", ".join(f"{key} {number(value)}" for key, value in model.metrics.items())
    lines = {
        "model": f"{model.label}  (number {model.model_id}, {model.status})",
        "tags": ", ".join(model.tags) or "none",
        "task": model.task_type,
        "metrics": metrics or "none",
        "checkpoint": model.checkpoint_path,
        "sha256": model.sha256,
        "run": model.training_run_id or "unknown",
        "data": model.data.get("train") or "unknown",
        "made from": "nothing" if model.parent_model_id is None else f"model {model.parent_model_id}",
        "exports": ", ".join(f"{each.format} ({each.path})" for each in model.exports) or "none",
        "created": model.created_at,
    }
    for key, value in lines.items():
        console().print(f"{key:11} {value}", markup=False, soft_wrap=True)
    return 0
