"""What a verdict on 100,000 rows costs, beside Evidently's default preset on the same rows.

    python bench/drift.py                    # builds .venv-bench-evidently once (about 600 MB)
    python bench/drift.py --rounds 3 --without-peers

CPU seconds of one process with one thread, imports left out, interleaved; the ratio is a median of rounds.
Columns: a length, two more numbers and two categories. `ratio` includes making both profiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-bench-evidently"
EVIDENTLY = ("evidently==0.7.23", "pandas<3")
GOAL = 1 / 20

DATA = """
import numpy as np, time, json, sys
def columns(seed):
    rng = np.random.default_rng(seed)
    return {
        "length": rng.lognormal(4, 0.7, ROWS).astype(int),
        "score": rng.normal(size=ROWS),
        "rate": rng.random(ROWS),
        "output": rng.choice(["a", "b", "c"], ROWS),
        "source": rng.choice([f"s{k}" for k in range(20)], ROWS),
    }
left, right = columns(1), columns(2)
"""

OURS = (
    DATA
    + """
from torchstone.drift import compare, profile_table
import torch
torch.set_num_threads(1)
compare(profile_table({"x": np.arange(50.0)}), profile_table({"x": np.arange(50.0)}))
start = time.process_time()
profiles = profile_table(left), profile_table(right)
middle = time.process_time()
alarm = compare(*profiles).alarm
print(json.dumps({"seconds": time.process_time() - start, "verdict": time.process_time() - middle}))
"""
)

THEIRS = (
    DATA
    + """
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
left, right = pd.DataFrame(left), pd.DataFrame(right)
start = time.process_time()
Report([DataDriftPreset()]).run(right, left).json()
print(json.dumps({"seconds": time.process_time() - start}))
"""
)


def measured(python: Path | str, program: str, rows: int) -> dict[str, float]:
    answer = subprocess.run(
        [str(python), "-c", program.replace("ROWS", str(rows))],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DO_NOT_TRACK": "1"},
    )
    if answer.returncode:
        raise SystemExit(answer.stderr[-2000:])
    return json.loads(answer.stdout.splitlines()[-1])


def peer_python() -> Path:
    python = PEERS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *EVIDENTLY], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "drift.json")
    given = parser.parse_args()
    peers = None if given.without_peers else peer_python()
    ours, theirs = [], []
    for _ in range(given.rounds):
        ours.append(measured(sys.executable, OURS, given.rows))
        if peers:
            theirs.append(measured(peers, THEIRS, given.rows)["seconds"])
    found: dict[str, object] = {
        "rows": given.rows,
        "rounds": given.rounds,
        "ours_cpu_s": statistics.median(each["seconds"] for each in ours),
        "verdict_cpu_s": statistics.median(each["verdict"] for each in ours),
    }
    if peers:
        ratios = {
            name: statistics.median(one[name] / other for one, other in zip(ours, theirs, strict=True))
            for name in ("seconds", "verdict")
        }
        found |= {"peer": EVIDENTLY[0], "peer_cpu_s": statistics.median(theirs)}
        found |= {"ratio": ratios["seconds"], "verdict_ratio": ratios["verdict"], "verdict_goal": GOAL}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
