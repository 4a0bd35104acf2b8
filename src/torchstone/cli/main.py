"""The program `torchstone`: collects the commands and turns every failure into a message and an exit code.

Nothing here, nor at the top of a command's file, may import torch, numpy or pydantic: `--help` and
shell completion must stay as quick as an empty program.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NoReturn

import typer

from torchstone._errors import Interrupted, TorchstoneError, disk_trouble
from torchstone._version import __version__
from torchstone.cli import (
    check,
    config,
    data,
    doctor,
    drift,
    export,
    generate,
    jobs_schedule,
    publish,
    recover,
    registry,
    reproduce,
    runs_files,
    search,
    serve,
    study_estimate,
    tokenizer,
    train,
    verify,
)
from torchstone.cli import eval as scoring
from torchstone.cli.session import print_json

EPILOG = "Start with:  torchstone check zoo:gpt-nano     What this machine offers:  torchstone doctor"

COMMANDS: Mapping[str, Callable[..., object] | typer.Typer] = {
    "check": check.check,
    "train": train.train,
    "generate": generate.generate,
    "export": export.export,
    "reproduce": reproduce.reproduce,
    "recover": recover.recover,
    "publish": publish.publish,
    "verify": verify.verify,
    "serve": serve.serve,
    "eval": scoring.evaluate,
    "drift": drift.drift,
    "doctor": doctor.doctor,
    "data": data.app,
    "config": config.app,
    "runs": runs_files.app,
    "search": search.search,
    "registry": registry.app,
    "jobs": jobs_schedule.jobs_app,
    "study": study_estimate.app,
    "tokenizer": tokenizer.app,
}
RUNS_BARE = ("train", "doctor")
"""Commands that do something without an argument; the others answer with their help."""


@functools.cache
def _parser(word: str) -> Callable[..., object]:
    """What parses a line that begins with the command `word`; without one, any line.

    Building all commands takes longer than importing them, so a line that names one builds that one.
    """
    app = typer.Typer(
        name="torchstone",
        help="The touchstone for transformers: bring a model, prove it, train it, publish only what holds.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    for name, command in COMMANDS.items() if not word else [(word, COMMANDS[word])]:
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, no_args_is_help=name not in RUNS_BARE)(command)
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"torchstone {__version__}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of the program itself; every command has its own `--help`."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; what went wrong is said on stderr."""
    as_json = "--json" in arguments
    verbose = any(each in ("-v", "-vv", "--verbose") for each in arguments)
    try:
        # A command that starts itself again in several processes needs the line as it was typed.
        word = arguments[0] if arguments and arguments[0] in COMMANDS else ""
        code = _parser(word)(
            args=list(arguments), prog_name="torchstone", standalone_mode=False, obj=tuple(arguments)
        )
        return code if isinstance(code, int) else 0
    except TorchstoneError as error:
        return _report(error, as_json, verbose)
    except KeyboardInterrupt:
        return _report(Interrupted("stopped by Ctrl-C", signal_number=2), as_json, verbose)
    except SystemExit as leaving:
        # The reader of our output left (`torchstone runs list | head`); to the parser that is a failure.
        if isinstance(leaving.__context__, BrokenPipeError):
            return 0
        raise
    except MemoryError:
        from torchstone._errors import OutOfMemory

        return _report(OutOfMemory("out of memory", next="try a smaller batch or model"), as_json, verbose)
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is not None:
            return _report(trouble, as_json, verbose)
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _report_usage(error, as_json)
        return _report_unexpected(error, as_json, verbose)


def _report(error: TorchstoneError, as_json: bool, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exception(error)
    if as_json:
        print_json(error.to_dict())
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _report_usage(error: Exception, as_json: bool) -> int:
    """A command line that the parser refused; its exception type belongs to the parser's library."""
    if as_json:
        what = error.format_message()  # type: ignore[attr-defined]
        print_json(TorchstoneError(what, next="torchstone --help").to_dict() | {"error": "UsageError"})
    elif hasattr(error, "show"):
        error.show()
    return 2


def _report_unexpected(error: Exception, as_json: bool, verbose: bool) -> int:
    name = type(error).__name__
    if verbose:
        import traceback

        traceback.print_exception(error)
    out_of_memory = "OutOfMemory" in name
    wrapped = TorchstoneError(
        f"{name}: {error}",
        why="out of device memory" if out_of_memory else "a fault of torchstone or of the model's own code",
        next="try a smaller batch or model" if out_of_memory else "the same command with -v shows where",
    )
    if as_json:
        print_json(wrapped.to_dict() | {"error": name})
    else:
        print(f"error: {wrapped}", file=sys.stderr)
    return 77 if out_of_memory else 1
