"""Help, version and completion start as light as an empty program: no torch, no numpy.

The command-line library itself imports pydantic for a command's options, so that one is not ours to avoid.
"""

from __future__ import annotations

import os
import subprocess
import sys

HEAVY = ("torch", "numpy", "pandas", "sqlalchemy", "matplotlib", "transformers", "tokenizers")

PROBE = """
import contextlib, io, sys
import typer
from torchstone.cli.main import COMMANDS, run

lines = [["--help"], ["--version"], ["export", "--list"], ["study", "list"], ["study", "show", "widths"]]
for name, command in COMMANDS.items():
    lines.append([name, "--help"])
    if isinstance(command, typer.Typer):
        subcommands = [each.name or each.callback.__name__ for each in command.registered_commands]
        lines += [[name, each, "--help"] for each in subcommands]
for line in lines:
    with contextlib.redirect_stdout(io.StringIO()):
        code = run(line)
    heavy = [name for name in {heavy!r} if name in sys.modules]
    if code or heavy:
        print(line, "ends with", code, "and has imported", heavy)
        break
else:
    print("light:", len(lines))
"""


def test_help_imports_nothing_heavy() -> None:
    """Of each command, in one process: the next would be blamed for what one imports, so it stops there."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY)], capture_output=True, text=True, check=True
    )
    word, count = done.stdout.split(": ") if done.stdout.startswith("light") else (done.stdout, "0")
    assert word == "light" and int(count) > 50


def test_shell_completion_imports_nothing_heavy() -> None:
    probe = (
        "import sys\nfrom torchstone.cli.main import run\n"
        "try:\n    run([])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    environment = {"_TORCHSTONE_COMPLETE": "complete_bash", "COMP_WORDS": "torchstone ch", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=True,
    )
    assert done.stdout.splitlines() == ["check", "HEAVY []"]


def test_importing_the_package_is_light_and_its_names_resolve() -> None:
    code = (
        "import sys, torchstone\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert all(getattr(torchstone, name) is not None for name in torchstone.__all__)\n"
        "assert callable(torchstone.adapt)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
