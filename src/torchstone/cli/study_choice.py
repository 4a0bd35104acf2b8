"""Which study and which part of it, as it is typed: one description for every command that takes one."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.session import split_commas, whole_numbers

if TYPE_CHECKING:
    from torchstone.study.run import StudyJob


def takes_study(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """A command whose first parameter is a `StudyJob` gets, in its place, the words that choose one."""
    # The type of a job is there for the type checker only: to import it would slow `--help`.
    _, *own = inspect.signature(command, eval_str=True, locals={"StudyJob": Any}).parameters.values()
    choice = inspect.signature(study_job, eval_str=True, locals={"StudyJob": Any}).parameters

    @functools.wraps(command)
    def typed(**given: Any) -> int | None:
        return command(study_job(**{each: given.pop(each) for each in choice}), **given)

    parameters = [*choice.values(), *own]
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {each.name: each.annotation for each in parameters}
    return typed


def study_job(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A study by name or path; default: study.name of --config or .config."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="Ids of arms (with * and ?), cells, or axis=value; comma separated."),
    ] = None,
    steps: Annotated[str | None, typer.Option("--steps", help="Only these steps: 0,5,7.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Only these seeds of the study: 1,2.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Start from this file of knobs, not from the study's base."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one knob for all arms; may be repeated."),
    ] = None,
) -> StudyJob:
    """The chosen part of a study."""
    from torchstone.cli.settings import assignment
    from torchstone.study.run import StudyJob

    if name is None:
        name, config = _configured(config)
    return StudyJob(
        name,
        only=split_commas(only),
        steps=split_commas(steps),
        seeds=whole_numbers("--seeds", seeds),
        config=config,
        overrides=tuple(assignment(each) for each in set_ or ()),
        environ=os.environ,
    )


def _configured(config: Path | None) -> tuple[str, Path]:
    """The study that a file of knobs names, and that file, which all arms start from."""
    from torchstone.cli.settings import read_settings

    file = config or Path(".config")
    if config is None and not file.is_file():
        raise UsageError("which study?", next="torchstone study check NAME; torchstone study list")
    name = read_settings(config=file).study.name
    if name is None:
        raise UsageError(
            f"{file} names no study", next="set study.name there, or: torchstone study check NAME"
        )
    return str(name), file
