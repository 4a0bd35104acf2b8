"""What it costs to start: `torchstone --help` and completion against an empty program of the same library.

Run:  python bench/startup.py [--rounds 15] [--json PATH]
CPU seconds (user + system) of whole processes, interleaved; the ratio is the median of the ratios per round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EMPTY = """
import typer
app = typer.Typer()
@app.command()
def nothing(name: str = "x") -> None:
    "Do nothing."
@app.command()
def more() -> None:
    "Do nothing more."
app()
"""


def cpu_seconds(command: list[str], **environment: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=Path("bench/results/startup.json"))
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        python = sys.executable
        complete = {"_TORCHSTONE_COMPLETE": "complete_bash", "COMP_WORDS": "torchstone ch", "COMP_CWORD": "1"}
        cases = {
            "empty program --help": ([python, str(empty), "--help"], {}),
            "torchstone --help": ([python, "-m", "torchstone", "--help"], {}),
            "torchstone check --help": ([python, "-m", "torchstone", "check", "--help"], {}),
            "torchstone shell completion": ([python, "-m", "torchstone"], complete),
            "import torch": ([python, "-c", "import torch"], {}),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(options.rounds + 1):
            for name, (command, environment) in cases.items():
                cost = cpu_seconds(command, **environment)
                if number:  # the first round warms the file cache
                    seconds[name].append(cost)

    base = seconds["empty program --help"]
    rows = {
        name: {
            "median_cpu_s": statistics.median(values),
            "ratio_to_empty": statistics.median(a / b for a, b in zip(values, base, strict=True)),
        }
        for name, values in seconds.items()
    }
    for name, row in rows.items():
        print(f"{name:30} {row['median_cpu_s']:7.3f} CPU s   {row['ratio_to_empty']:6.2f} x empty program")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({"bench": "startup", "rounds": options.rounds, "rows": rows}, indent=2)
    )


if __name__ == "__main__":
    main()
