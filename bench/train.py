"""What the engine adds to the loop that people write by hand: CPU microseconds per optimizer step.

    python bench/train.py                   # prints the cost per step, writes bench/results/train.json
    python bench/train.py --rounds 6        # quicker, noisier

Both train the same tiny model on the same tokens with the same fused AdamW and clip the gradient; the
engine also tracks, watches every gradient and keeps its state complete. Tiny, because what is measured does
not grow with the model. Each round runs both back to back, in changing order, on one thread; saves and
start-up are outside the measured steps. A run gives the median over its windows of 20 steps, a round the
difference of its two runs, the figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import torchstone as ts
from torchstone.data.pack import TokenBlocks
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.optim.groups import parameter_groups

BATCH, LENGTH, VOCABULARY = 4, 16, 256
WINDOW = 20
"""Steps per reading of the clock; the first window warms up."""
LIMIT_US = 50.0


def model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=VOCABULARY, max_seq_len=LENGTH, d_model=16, num_layers=2, num_heads=2))


def tokens(steps: int) -> torch.Tensor:
    """(examples, LENGTH) ids, enough for one epoch of `steps`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (steps * BATCH, LENGTH), generator=generator)


def by_hand(data: torch.Tensor, steps: int) -> float:
    """CPU seconds per step of the bare loop."""
    module = model().train()
    optimizer = torch.optim.AdamW(parameter_groups(module, 0.01), lr=1e-3, fused=True)
    order = torch.randperm(len(data))
    clock = Clock()
    for step in range(steps):
        ids = data[order[step * BATCH : (step + 1) * BATCH]]
        logits = module(ids).logits
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.tick(step + 1)
    return clock.per_step


class Clock:
    """Reads CPU time after each window of steps; for the engine it is a hook."""

    def __init__(self) -> None:
        self.readings: list[float] = []

    def on_step(self, info: Any) -> None:
        self.tick(info.step)

    def tick(self, step: int) -> None:
        if step % WINDOW == 0:
            self.readings.append(time.process_time())

    @property
    def per_step(self) -> float:
        return statistics.median(b - a for a, b in pairwise(self.readings)) / WINDOW


def by_engine(data: torch.Tensor, steps: int, **config: Any) -> float:
    """CPU seconds per step of the engine, tracker and monitors on."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = ts.TrainingConfig(
            batch_size=BATCH, max_steps=steps, epochs=1, learning_rate=1e-3, log_every=10, layers_every=10,
            dashboard=False, checkpoint_dir=str(Path(folder) / "run"), **config,
        )  # fmt: skip
        trainer = ts.Trainer(
            model(), settings, task=ts.TaskSpec.language_modeling(VOCABULARY), hooks=clock, device="cpu"
        )
        blocks = TokenBlocks(data.reshape(-1).numpy().astype("uint16"), LENGTH)
        trainer.train(blocks)
    return clock.per_step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "train.json")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    data = tokens(options.steps)
    bare, ours = [], []
    for turn in range(options.rounds + 1):
        ways = ((by_hand, bare), (by_engine, ours))
        for way, spent in ways if turn % 2 else reversed(ways):
            spent.append(way(data, options.steps))
    bare, ours = bare[1:], ours[1:]  # the first round warms both up
    extra = [1e6 * (engine - hand) for engine, hand in zip(ours, bare, strict=True)]
    low, middle, high = statistics.quantiles(extra, n=4)
    record = {
        "bench": "train", "torch": torch.__version__, "threads": 1, "rounds": options.rounds,
        "by_hand_us": round(1e6 * statistics.median(bare), 1),
        "extra_us": round(middle, 1), "extra_us_quartiles": [round(low, 1), round(high, 1)],
        "limit_us": LIMIT_US,
    }  # fmt: skip
    print(
        f"by hand {record['by_hand_us']:.0f} us per step; the engine adds {middle:.1f} us "
        f"(quartiles {low:.1f} {high:.1f}, at most {LIMIT_US:.0f})"
    )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if low <= LIMIT_US else 1


if __name__ == "__main__":
    raise SystemExit(main())
