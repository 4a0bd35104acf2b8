"""How often the publish gate is wrong, and how often it can tell, in simulated comparisons.

    python bench/publish.py                        # 20,000 comparisons of each kind
    python bench/publish.py --comparisons 2000

Without an effect, "SUPPORTED" (limited or not) is an error; with one, the gate should support the claim with
about the power that `needed_seeds` promises. Values are normal; paired arms share most of their noise.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from torchstone.study.claim.arms import Arm
from torchstone.study.claim.findings import Case
from torchstone.study.claim.recorded import RecordedRun, states
from torchstone.study.claim.repository import Repository
from torchstone.study.claim.statistics import Gain, needed_seeds
from torchstone.study.claim.terms import Claim, Size
from torchstone.study.claim.verdict import HOLDS, judge

NOISE = 0.02
"""Standard deviation of one run's metric, beside what arms with the same seed share."""
SPREAD = NOISE * 2**0.5
"""Of the difference of two runs."""


def case(arms: list[np.ndarray], *, paired: bool) -> Case:
    made = [
        Arm(
            name=f"arm{place}",
            where="",
            runs=tuple(
                RecordedRun(
                    run_id=f"{place}-{number}",
                    origin="claim",
                    where="",
                    statements=states(
                        {"seed": number + (0 if paired else 1000 * place), "value": float(value)}, ""
                    ),
                )
                for number, value in enumerate(values)
            ),
        )
        for place, values in enumerate(arms)
    ]
    claim = Claim(
        title="",
        metric="val/loss",
        direction="lower",
        size=Size("absolute", 0.0),
        arms=(),
        path=Path("claim.toml"),
        text="",
    )
    return Case(claim=claim, arms=tuple(made), repository=Repository(Path()))


def supported(
    draw: np.random.Generator, count: int, paired: bool, seeds: int, gain: float, candidates: int
) -> float:
    """Share of comparisons in which any candidate is: where none does anything, each of them is an error."""
    held = 0
    for _ in range(count):
        shared = draw.normal(0, 5 * NOISE, size=seeds) if paired else 0.0
        arms = [3 + shared + draw.normal(0, NOISE, size=seeds) for _ in range(candidates + 1)]
        judged = judge(case([arms[0], *(arm - gain for arm in arms[1:])], paired=paired), ())
        held += any(each.verdict in HOLDS for each in judged)
    return held / count


def needed(gain: float, paired: bool) -> int:
    found = Gain(
        mean=gain, error=SPREAD, degrees=1.0, paired=paired, num_baseline=2, num_candidate=2, spread=SPREAD
    )
    return needed_seeds(found, gain, 0.95) or 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=20_000)
    count = parser.parse_args().comparisons
    draw, rows = np.random.default_rng(0), []
    for paired in (True, False):
        plan = [(0.0, seeds, number) for seeds, number in ((2, 1), (3, 1), (5, 1), (10, 1), (3, 4), (5, 10))]
        plan += [(gain, needed(gain, paired), 1) for gain in (NOISE, 2 * NOISE)]
        for gain, seeds, candidates in plan:
            began, times = time.perf_counter(), count // 10 if gain else count
            share = supported(draw, times, paired, seeds, gain, candidates)
            row = {
                "gain_in_spreads": gain / NOISE,
                "paired": paired,
                "seeds": seeds,
                "candidates": candidates,
                "supported": share,
                "ms_each": 1e3 * (time.perf_counter() - began) / times,
            }
            rows.append(row)
            print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    out = Path(__file__).parent / "results" / "publish.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
