"""What the engine adds to the loop that people write by hand: CPU microseconds per optimizer step.

    python bench/train.py                   # prints the cost per step, writes bench/results/train.json
    python bench/train.py --rounds 6        # quicker, noisier

Both train the same tiny model on the same tokens with the same fused AdamW and clip the gradient; the
engine also tracks, watches every gradient and keeps its state complete. Tiny, because what is measured does
not grow with the model. Windows of 20 steps alternate between the two in one process on one thread; saves and
start-up are outside. The figure is the median of the differences of neighbouring windows.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
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


class ByHand:
    """The loop that people write, some steps at a time."""

    def __init__(self, data: torch.Tensor, module: GPT | None = None) -> None:
        self.data, self.module = data, (module or model()).train()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.module, 0.01), lr=1e-3, fused=True)
        self.order, self.step = torch.randperm(len(data)), 0

    def take(self, steps: int) -> None:
        for step in range(self.step, self.step + steps):
            ids = self.data[self.order[step * BATCH : (step + 1) * BATCH]]
            logits = self.module(ids).logits
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.step += steps


class Alternating:
    """A hook: after each window of the engine's steps, as many by hand; both on the same clock."""

    def __init__(self, hand: ByHand) -> None:
        self.hand, self.began = hand, 0.0
        self.pairs: list[tuple[float, float]] = []

    def on_step(self, info: Any) -> None:
        if info.step % WINDOW:
            return
        engine = time.process_time() - self.began
        start = time.process_time()
        self.hand.take(WINDOW)
        self.pairs.append((engine / WINDOW, (time.process_time() - start) / WINDOW))
        self.began = time.process_time()


def by_engine(data: torch.Tensor, steps: int, module: GPT | None = None, **config: Any) -> None:
    """A run with tracker and monitors on."""
    hooks = config.pop("hooks", None)
    with tempfile.TemporaryDirectory() as folder:
        settings = ts.TrainingConfig(
            batch_size=BATCH, max_steps=steps, epochs=1, learning_rate=1e-3, log_every=10, layers_every=10,
            dashboard=False, checkpoint_dir=str(Path(folder) / "run"), **config,
        )  # fmt: skip
        task = ts.TaskSpec.language_modeling(VOCABULARY)
        trainer = ts.Trainer(module or model(), settings, task=task, hooks=hooks, device="cpu")
        trainer.train(TokenBlocks(data.reshape(-1).numpy().astype("uint16"), LENGTH))


# --- memory and imports, in processes of their own ------------------------------------------------

LARGE = {"vocab_size": 4096, "max_seq_len": 64, "d_model": 512, "num_layers": 6, "num_heads": 8}
IMPORTS = {
    "torch": "import torch",
    "engine": "import torch, torchstone.train.engine",
    "Trainer": "import torch, torchstone; torchstone.Trainer",
}


def peak_mib(way: str) -> float:
    """Resident memory at its highest while 6 steps are taken, without what importing takes."""
    global VOCABULARY, LENGTH
    VOCABULARY, LENGTH = LARGE["vocab_size"], LARGE["max_seq_len"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    module, data = GPT(GPTConfig(**LARGE)), tokens(6)
    if way == "engine":
        by_engine(data, 6, module=module, async_save=False)
    else:
        ByHand(data, module).take(6)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(rounds: int) -> dict[str, float]:
    peaks: dict[str, list[float]] = {"hand": [], "engine": []}
    for _ in range(rounds):
        for way, found in peaks.items():
            command = [sys.executable, __file__, "--worker", way]
            found.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    hand, engine = (statistics.median(peaks[way]) for way in ("hand", "engine"))
    return {"hand_mib": round(hand), "engine_mib": round(engine), "ratio": round(engine / hand, 3)}


def imports(rounds: int) -> dict[str, float]:
    """CPU time of importing, as a ratio to importing torch in the same round."""
    spent: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    pairs = {name: zip(times, spent["torch"], strict=True) for name, times in spent.items()}
    return {name: round(statistics.median(a / b for a, b in both), 3) for name, both in pairs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "train.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        logging.disable(logging.WARNING)
        print(peak_mib(options.worker))
        return 0
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    data, pairs = tokens(options.steps), []
    for _ in range(options.rounds):
        alternating = Alternating(ByHand(data))
        by_engine(data, options.steps, hooks=alternating)
        pairs += alternating.pairs[2:-1]  # warm-up; the last window has the end of the run in it
    bare = [hand for _, hand in pairs]
    low, middle, high = statistics.quantiles((1e6 * (engine - hand) for engine, hand in pairs), n=4)
    record = {
        "bench": "train", "torch": torch.__version__, "threads": 1, "rounds": options.rounds,
        "windows": len(pairs), "by_hand_us": round(1e6 * statistics.median(bare), 1),
        "extra_us": round(middle, 1), "extra_us_quartiles": [round(low, 1), round(high, 1)],
        "limit_us": LIMIT_US, "memory": memory(3), "imports": imports(7),
    }  # fmt: skip
    print(
        f"by hand {record['by_hand_us']:.0f} us per step; the engine adds {middle:.1f} us "
        f"(quartiles {low:.1f} {high:.1f}, at most {LIMIT_US:.0f})"
    )
    print(
        f"peak memory {record['memory']['ratio']:.3f} of the hand-written loop's; "
        f"importing against torch: engine {record['imports']['engine']:.2f}, "
        f"Trainer {record['imports']['Trainer']:.2f}"
    )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if low <= LIMIT_US else 1


if __name__ == "__main__":
    raise SystemExit(main())
