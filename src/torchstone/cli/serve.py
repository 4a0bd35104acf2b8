"""`torchstone serve BUNDLE`: answer over HTTP with what a bundle holds, once it has proven itself."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import EnvironmentProblem, TorchstoneError, UsageError
from torchstone.cli.session import Json, Quiet, Verbose, print_json

if TYPE_CHECKING:
    from torchstone.web.serving.config import ServeConfig


def serve(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The bundle's folder, or its archive.")],
    format: Annotated[
        str | None, typer.Option("--format", help="Default: onnx, pt2, safetensors, in that order.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Another than loopback needs a token.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="0: any that is free; default: 8000.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="Holds the token that clients send; or TORCHSTONE_SERVE_TOKEN."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A limit, such as max_batch=16; docs/serve.md has all."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Verify the bundle and show the limits; listen nowhere.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Verify a bundle and serve it: /v1/predict, /v1/completions, /health, /ready, /metrics.

    SIGTERM or Ctrl-C ends what was begun, then stops. Logs are JSON lines on stderr.

    Example:  torchstone serve bundles/first

    Example:  torchstone serve bundles/first --host 0.0.0.0 --token-file secret --set max_batch=16
    """
    from torchstone._optional import require
    from torchstone.export.archive import is_archive, unpack

    for each in ("fastapi", "uvicorn", "prometheus_client"):
        require(each, "serve")
    from torchstone.export.standalone.runtimes import CannotRun
    from torchstone.web.serving.server import NotServed, chosen_format, log_json, open_verified
    from torchstone.web.serving.server import serve as served

    given = {"format": format, "host": host, "port": port, "device": device}
    config = _config({name: value for name, value in given.items() if value is not None}, set_ or [])
    token = _token(token_file)
    log_json(logging.ERROR if quiet else (logging.INFO, logging.DEBUG)[min(verbose, 1)])
    with ExitStack() as held:
        folder = Path(bundle).expanduser()
        if is_archive(folder):
            place = held.enter_context(tempfile.TemporaryDirectory(prefix="torchstone-bundle-"))
            folder = unpack(folder, Path(place) / folder.name.partition(".")[0])
        try:
            if dry_run:
                open_verified(folder, config)
                _tell(None, config, config.format or chosen_format(folder), as_json)
                return 0
            number = served(
                folder, config, token, lambda address, it: _tell(address, config, it.format, as_json)
            )
        except NotServed as problem:
            raise TorchstoneError(str(problem), next=f"torchstone verify {bundle}") from None
        except CannotRun as problem:
            raise EnvironmentProblem(str(problem)) from None
    return 128 + number if number else 1


def _config(given: dict[str, Any], settings: list[str]) -> ServeConfig:
    from pydantic import ValidationError

    from torchstone.web.serving.config import ServeConfig

    for each in settings:
        name, equals, value = each.partition("=")
        if not equals or name in given:
            raise UsageError(f"--set {each} is no KEY=VALUE of a limit that is not given yet")
        given[name] = value
    try:
        return ServeConfig(**given)
    except ValidationError as problem:
        first = problem.errors()[0]
        known = ", ".join(ServeConfig.model_fields)
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UsageError(told, why="a limit that cannot be", next=f"known are {known}") from None


def _token(file: Path | None) -> str | None:
    """From the file, else the environment; never from the command line, which every user can read."""
    from torchstone.web.serving.config import TOKEN_VARIABLE

    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"--token-file {file} cannot be read ({problem})") from None
    if not token:
        raise UsageError(f"--token-file {file} is empty")
    return token


def _tell(address: str | None, config: ServeConfig, format: str, as_json: bool) -> None:
    if as_json:
        limits = config.model_dump(exclude={"host", "port", "format"})
        print_json({"schema": "torchstone.serve/1", "address": address, "format": format, "limits": limits})
    elif address is None:
        print(f"the bundle holds; {format} would be served on {config.host} (--dry-run)", flush=True)
    else:
        print(f"{format} on {address}", flush=True)
    sys.stdout.flush()
