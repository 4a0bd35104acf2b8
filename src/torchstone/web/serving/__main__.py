"""`python -m serving`: serve the bundle around this package. The flags are the fields of `ServeConfig`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torchstone.export.standalone.runtimes import CannotRun, say
from torchstone.web.serving.config import TOKEN_VARIABLE, ServeConfig
from torchstone.web.serving.server import NotServed, log_json, serve


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve this bundle.")
    parser.add_argument("--bundle", default=str(Path(__file__).resolve().parents[1]), help=argparse.SUPPRESS)
    for name, field in ServeConfig.model_fields.items():
        told = (field.description or "").replace("%", "%%")
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, default=field.default, help=f"{told} [{field.default}]")
    wanted = vars(parser.parse_args(arguments))
    folder = Path(wanted.pop("bundle"))
    log_json()
    try:
        config = ServeConfig(**wanted)
        number = serve(folder, config, os.environ.get(TOKEN_VARIABLE) or None)
    except (NotServed, CannotRun, ValueError) as problem:
        say(f"error: {problem}")
        return 5 if isinstance(problem, CannotRun) else 1 if isinstance(problem, NotServed) else 2
    return 128 + number if number else 1


if __name__ == "__main__":
    sys.exit(main())
