"""Integrated gradients: seconds and completeness gap beside captum's default, on the same model and input.

    python bench/attribution.py
    python bench/attribution.py --rounds 3 --models zoo:gpt-nano

captum's default is 50 nodes, Gauss-Legendre too; its delta is asked for, since the gap is half of the
comparison, and costs two passes, as ours does. Ours takes 8 nodes, then twice as many until the gap is at
most captum's, or rounding; all of that is timed. CPU seconds of one process, interleaved; the ratio is a
median of rounds. The gap is |sum of attributions - change of the answer| / |change of the answer|.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torchstone._optional import require
from torchstone.adapt.load import load
from torchstone.checks.run import _context
from torchstone.checks.tier2.attribution import NODES, Attribution, attribute

HERE = Path(__file__).resolve().parent
MODELS = ("zoo:gpt-nano", "zoo:gpt-tiny", "zoo:lenet5")
GOAL = 3.0
ROUNDINGS = 4
"""Roundings of the largest answer that a gap may consist of."""
TOKENS = 32


def cpu_s(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def beside(target: str, rounds: int) -> dict[str, Any]:
    captum = require("captum.attr", "interp")
    model = load(target)
    module = model.module.eval()
    context = _context(model.adapter, None, None, 0, 60.0)
    batch = context.batch(1, length=TOKENS)
    value = batch[context.primary]
    first = attribute(context, batch, NODES[0])

    def answer(given: torch.Tensor) -> torch.Tensor:
        main = context.adapter(**{context.primary: given}).main
        return main if first.position is None else main[:, first.position]

    if context.takes_tokens:
        table = next(each for each in module.modules() if isinstance(each, torch.nn.Embedding))
        with torch.no_grad():
            table.weight[0] = 0  # captum's baseline is an id, ours an embedding of zeros
        value = batch[context.primary] = value.clamp(min=1)
        first = attribute(context, batch, NODES[0])
        explainer = captum.LayerIntegratedGradients(answer, table)
    else:
        explainer = captum.IntegratedGradients(answer)

    def theirs() -> float:
        _, delta = explainer.attribute(value, baselines=0, target=first.target, return_convergence_delta=True)
        return abs(float(delta)) / max(abs(first.change), 1e-12)

    limit = max(theirs(), ROUNDINGS * torch.finfo(torch.float32).eps * first.largest / abs(first.change))

    def ours() -> Attribution:
        for nodes in NODES:
            found = attribute(context, batch, nodes)
            if found.gap <= limit:
                break
        return found

    times: dict[str, list[float]] = {"ours": [], "captum": []}
    gaps: dict[str, float] = {}
    found = first
    for _ in range(rounds + 1):
        seconds, found = cpu_s(ours)
        times["ours"].append(seconds)
        gaps["ours"] = found.gap
        seconds, gaps["captum"] = cpu_s(theirs)
        times["captum"].append(seconds)
    ratios = [b / a for a, b in zip(times["ours"][1:], times["captum"][1:], strict=True)]
    return {
        "model": target,
        "nodes": found.nodes,
        "ours_cpu_s": statistics.median(times["ours"][1:]),
        "captum_cpu_s": statistics.median(times["captum"][1:]),
        "ratio": statistics.median(ratios),
        "ours_gap": gaps["ours"],
        "captum_gap": gaps["captum"],
        "holds": statistics.median(ratios) >= GOAL and gaps["ours"] <= limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--json", type=Path, default=HERE / "results" / "attribution.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "rounds": given.rounds,
        "goal": GOAL,
        "torch": torch.__version__,
        "models": [beside(each, given.rounds) for each in given.models],
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
