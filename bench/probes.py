"""What looking inside costs at a validation: gates and attention, against the validation pass itself.

    python bench/probes.py                          # prints ratios, writes bench/results/probes.json
    python bench/probes.py --attention ra lens      # other mechanisms

    validation  forward pass and loss of some examples
    gates       every learned gate read, which each validation does once, however many examples it has
    attention   entropy and reciprocity of every head over the same examples (tracking.attention_samples)

Ways are interleaved; a figure is the median over the rounds of this way's CPU time / that of the validation
pass in the same round. Nothing of it runs in a training step.
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
import torch.nn.functional as F

from torchstone.nn.attention.look import HeadLook
from torchstone.nn.config import AttentionConfig
from torchstone.nn.gates import gate_metrics
from torchstone.nn.gpt import GPT, GPTConfig

SIZES = {"vocab_size": 4096, "max_seq_len": 256, "d_model": 256, "num_layers": 2, "num_heads": 4}
EXAMPLES = 4


def ways(attention: str) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SIZES, attention=AttentionConfig(name=attention))).eval()
    ids = torch.randint(SIZES["vocab_size"], (EXAMPLES, SIZES["max_seq_len"]))

    def validation() -> None:
        F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def heads() -> list[list[float]]:
        told = []
        for attended in model.attended(input_ids=ids):
            look = HeadLook()
            assert attended.looked is not None
            look.add(attended.looked)
            told += [look.entropy.tolist(), look.reciprocity.tolist()]
        return told

    return {"validation": validation, "gates": lambda: gate_metrics(model), "attention": heads}


@torch.no_grad()
def measure(attention: str, rounds: int) -> dict[str, dict[str, float]]:
    """{way: {milliseconds of CPU, ratio to the validation pass}}, medians."""
    works = ways(attention)
    spent: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name in works if turn % 2 else reversed(works):
            began = time.process_time()
            works[name]()
            if turn:  # the first one warms up
                spent[name].append(time.process_time() - began)
    return {
        name: {
            "ms": round(1e3 * statistics.median(times), 2),
            "ratio": round(
                statistics.median(a / b for a, b in zip(times, spent["validation"], strict=True)), 3
            ),
        }
        for name, times in spent.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attention", nargs="+", default=["sdpa", "ra", "ra-ct", "mla"])
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "probes.json")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "bench": "probes",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model": SIZES,
        "examples": EXAMPLES,
        "rounds": options.rounds,
        "clock": "cpu",
        "attention": {},
    }
    for attention in options.attention:
        record["attention"][attention] = found = measure(attention, options.rounds)
        for name, each in found.items():
            print(f"{attention:8} {name:11} {each['ms']:9.2f} ms {each['ratio']:6.2f}x")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
