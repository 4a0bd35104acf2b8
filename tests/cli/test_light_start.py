"""Help, version and completion start as light as an empty program: no torch, no numpy.

The command-line library itself imports pydantic for a command's options, so that one is not ours to avoid.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pandas", "sqlalchemy", "matplotlib", "transformers", "tokenizers")

PROBE = """
import sys
from torchstone.cli.main import run
code = run({arguments!r})
heavy = [name for name in {heavy!r} if name in sys.modules]
print("HEAVY", heavy, "CODE", code)
"""


def heavy_imports(arguments: list[str], **environment: str) -> str:
    probe = PROBE.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=True,
    )
    return done.stdout.splitlines()[-1]


COMMANDS = [
    ["--help"],
    ["--version"],
    ["check", "--help"],
    ["train", "--help"],
    ["generate", "--help"],
    ["export", "--list"],
    ["serve", "--help"],
    ["eval", "--help"],
    ["config", "--help"],
    ["runs", "--help"],
    ["data", "--help"],
    ["data", "show", "--help"],
    ["tokenizer", "--help"],
    ["tokenizer", "train", "--help"],
    ["tokenizer", "validate", "--help"],
    ["study", "--help"],
    ["study", "list"],
    ["study", "show", "widths"],
    ["doctor", "--help"],
    ["publish", "--help"],
    ["runs", "invalidate", "--help"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_imports(arguments) == "HEAVY [] CODE 0"


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
