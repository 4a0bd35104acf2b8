"""What each lever gives a CPU training loop, and what the engine makes of them by its own probe.

    python bench/levers.py                  # prints ratios, writes bench/results/levers.json

`plain` is the loop that people write: torch's defaults, fp32. Each way runs in a process of its own, for
an allocator cannot be set back; rounds alternate the ways, and a figure is the median over the rounds of
plain time / this way's time, both of the same round. Levers add up from left to right.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

WAYS = ("plain", "fused", "allocator", "bf16", "attention", "engine", "engine-bf16")
SHAPES: dict[str, dict[str, int]] = {
    "d32x2": {"vocab_size": 256, "max_seq_len": 32, "d_model": 32, "num_layers": 2, "num_heads": 2},
    "d64x2": {"vocab_size": 512, "max_seq_len": 64, "d_model": 64, "num_layers": 2, "num_heads": 2},
    "d128x4": {"vocab_size": 4096, "max_seq_len": 256, "d_model": 128, "num_layers": 4, "num_heads": 4},
}
BATCH = {"d32x2": 4, "d64x2": 8, "d128x4": 16}
STEPS = {"d32x2": 300, "d64x2": 150, "d128x4": 10}
LIMITS = {"d32x2": 1.35, "d64x2": 1.35, "d128x4": 1.7}


def seconds_per_step(way: str, shape: str) -> float:
    """Median over the second half of the steps, wall time."""
    import torch

    from torchstone.nn.gpt import GPT, GPTConfig

    sizes, batch, steps = SHAPES[shape], BATCH[shape], STEPS[shape]
    torch.manual_seed(0)
    module = GPT(GPTConfig(**sizes))
    data = torch.randint(sizes["vocab_size"], (batch * steps, sizes["max_seq_len"]))
    if way.startswith("engine"):
        return _engine(module, data, batch, steps, "probe-bf16" if way == "engine-bf16" else "probe")
    return _by_hand(module, data, batch, steps, WAYS.index(way))


def _by_hand(module: Any, data: Any, batch: int, steps: int, level: int) -> float:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from torchstone.train.levers import keep_freed_memory

    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True if level >= 1 else None)
    if level >= 2:
        keep_freed_memory()
    kernels = [SDPBackend.MATH] if level >= 4 else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    times = []
    with sdpa_kernel(kernels):
        for step in range(steps):
            began = time.perf_counter()
            ids = data[step * batch : (step + 1) * batch]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=level >= 3):
                logits = module(ids).logits
                loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            times.append(time.perf_counter() - began)
    return statistics.median(times[steps // 2 :])


def _engine(module: Any, data: Any, batch: int, steps: int, speed: str) -> float:
    import torchstone as ts
    from torchstone.data.pack import TokenBlocks

    class Clock:
        readings: list[float] = []  # noqa: RUF012

        def on_step(self, info: Any) -> None:
            self.readings.append(time.perf_counter())

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        config = ts.TrainingConfig(
            batch_size=batch, epochs=1, learning_rate=1e-3, log_every=10, dashboard=False, speed=speed,
            checkpoint_dir=str(Path(folder) / "run"),
        )  # fmt: skip
        task = ts.TaskSpec.language_modeling(module.config.vocab_size)
        blocks = TokenBlocks(data.reshape(-1).numpy().astype("uint16"), data.shape[1])
        ts.Trainer(module, config, task=task, hooks=Clock(), device="cpu").train(blocks)
    readings = Clock.readings
    return statistics.median(b - a for a, b in pairwise(readings))


def _gain(plain: list[float], way: list[float]) -> float:
    return statistics.median(before / after for before, after in zip(plain, way, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "SHAPE"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "levers.json")
    options = parser.parse_args()
    if options.worker:
        print(seconds_per_step(*options.worker))
        return 0
    record: dict[str, Any] = {"bench": "levers", "rounds": options.rounds, "shapes": {}}
    held = True
    for shape in SHAPES:
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(options.rounds):
            for way in WAYS if turn % 2 else reversed(WAYS):
                command = [sys.executable, __file__, "--worker", way, shape]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                spent[way].append(float(done.stdout))
        gains = {
            way: statistics.median(a / b for a, b in zip(spent["plain"], spent[way], strict=True))
            for way in WAYS
        }
        plain_ms = 1e3 * statistics.median(spent["plain"])
        record["shapes"][shape] = {
            "plain_ms": round(plain_ms, 3), "gains": {way: round(gain, 3) for way, gain in gains.items()},
            "limit": LIMITS[shape],
        }  # fmt: skip
        line = "  ".join(f"{way} {gain:.2f}x" for way, gain in gains.items())
        print(f"{shape:8} plain {plain_ms:.2f} ms per step   {line}   (at least {LIMITS[shape]})")
        held = held and gains["engine-bf16"] >= LIMITS[shape]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
