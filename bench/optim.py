"""What an update costs with each optimizer and with pruning, against torch's fused and foreach AdamW.

    python bench/optim.py                    # prints ratios, writes bench/results/optim.json
    python bench/optim.py --device cuda

    update      everything from complete gradients to new weights: measure, clip, step (all on one GPT)
    step        a whole training step of the same GPT, forward and backward too; the goals are of this
    mask        making new masks, exact and by a sample, in updates of AdamW
    sparse      a linear layer on pruned weights, by torch's kernel for them / dense; only where there is one

Ways are interleaved, forwards and backwards; a figure is the median over the rounds of this way's time / that
of fused AdamW in the same round. `--clock cpu` counts the time of this process's threads instead of the
wall's, for a machine that others use too (with OMP_NUM_THREADS=1, for threads that wait count as well).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.optim.config import OptimConfig, PruneConfig
from torchstone.optim.pruning.pruner import Pruner, build_pruner
from torchstone.optim.registry import OPTIMIZERS, build_optimizer
from torchstone.train.step import Recipe, train_step
from torchstone.train.update import DeviceUpdate, Gradients, HostUpdate

SIZES = {"vocab_size": 4096, "max_seq_len": 256, "d_model": 256, "num_layers": 4, "num_heads": 4}
BATCH = 8
GOALS = {"adamwspam": 1.15, "adamwprune": 1.10}
BASE = "adamw"


class Way:
    """One model with one optimizer, taking steps on the same batch."""

    def __init__(self, name: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.module = GPT(GPTConfig(**SIZES)).to(device)
        self.ids = torch.randint(SIZES["vocab_size"], (BATCH, SIZES["max_seq_len"]), device=device)
        optimizer_name = name if name in OPTIMIZERS else "adamw"
        self.optimizer = build_optimizer(self.module, OptimConfig(name=optimizer_name))
        if name == "foreach":
            self.optimizer = torch.optim.AdamW(self.module.parameters(), foreach=True)
        gradients = Gradients(list(self.module.parameters()), 1.0)
        self.pruner: Pruner | None = None
        if OPTIMIZERS.get(optimizer_name).needs_pruner:
            config = PruneConfig(method="state", start=0.0, end=1e-6)
            self.pruner = build_pruner(
                self.module, self.optimizer, config, total_steps=10**6, optimizer_name=optimizer_name
            )
            assert self.pruner is not None
            gradients.preparations.append(self.pruner.mask_gradients)
        if hasattr(self.optimizer, "prepare_gradients"):
            gradients.preparations.append(self.optimizer.prepare_gradients)
        if hasattr(self.optimizer, "observe_norm"):
            gradients.observers.append(self.optimizer.observe_norm)
        on_device = device.type == "cuda" and DeviceUpdate.suits(self.optimizer)
        self.update = DeviceUpdate(gradients, device, sticky=True) if on_device else HostUpdate(gradients)
        self.number = 0
        self.step()  # state, masks
        self.loss_sum(self.ids).backward()
        self.kept = [each.grad for each in self.module.parameters()]
        for _ in range(25):  # past what an optimizer does only at the beginning
            self.apply()

    def count(self, batch: Tensor) -> int:
        return batch[:, 1:].numel()

    def loss_sum(self, batch: Tensor) -> Tensor:
        logits = self.module(batch).logits[:, :-1].flatten(0, 1)
        return F.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum")

    def measure(self, batch: Tensor, observe: object = None) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(batch)}

    def step(self) -> None:
        self.number += 1
        made = train_step([self.ids], self, self.optimizer, 1e-5, Recipe(self.update, nullcontext))
        if self.pruner is not None:
            self.pruner.after_step(self.number, lambda: made.update.was_made)

    def apply(self) -> None:
        """The update alone, on gradients that were kept."""
        for each, gradient in zip(self.module.parameters(), self.kept, strict=True):
            each.grad = gradient
        self.update.apply(self.optimizer, [])


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def seconds(work: Callable[[], Any], device: torch.device, repeat: int) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    for _ in range(repeat):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - began) / repeat


def compare(
    works: dict[str, Callable[[], Any]], base: str, device: torch.device, rounds: int, repeat: int
) -> Any:
    """{way: [median seconds, median of the ratios to base]}"""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for turn in range(rounds):
        for name in works if turn % 2 else reversed(works):
            spent[name].append(seconds(works[name], device, repeat))
    return {
        name: {
            "ms": round(1e3 * statistics.median(times), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(times, spent[base], strict=True)), 3),
        }
        for name, times in spent.items()
    }


def masks(device: torch.device, rounds: int) -> Any:
    """New masks of the model's matrices, and of 20 million weights, per update of fused AdamW."""
    way = Way("adamwprune", device)
    assert way.pruner is not None
    works: dict[str, Callable[[], Any]] = {"update": way.apply}
    for threshold in ("exact", "sampled"):
        config = way.pruner.config.model_copy(update={"threshold": threshold})
        pruner = build_pruner(way.module, way.optimizer, config, total_steps=10, optimizer_name="adamw")
        works[threshold] = lambda pruner=pruner: pruner.prune(1.0, seed=1)
    return {"weights": way.pruner.total, **compare(works, "update", device, rounds, 1)}


def sparse(device: torch.device, rounds: int) -> Any:
    """Times of y = x W^T for W of 1024 x 1024 and 64 rows of x, relative to dense."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # sparse layouts call themselves a prototype
    weight, x = torch.randn(1024, 1024, device=device), torch.randn(64, 1024, device=device)
    works: dict[str, Callable[[], Any]] = {"dense": lambda: F.linear(x, weight)}
    for sparsity in (0.5, 0.7, 0.9, 0.95, 0.99):
        mask = torch.rand_like(weight) > sparsity
        stored = (weight * mask).to_sparse_csr()
        works[f"csr {sparsity}"] = lambda stored=stored: (stored @ x.T).T
    if device.type == "cuda":
        half, wide = weight.half(), x.half()
        mask = torch.tensor([1, 1, 0, 0], device=device).tile(1024, 256).bool()
        packed = torch.sparse.to_sparse_semi_structured(half * mask)
        works["dense fp16"] = lambda: F.linear(wide, half)
        works["2:4 fp16"] = lambda: F.linear(wide, packed)
    with torch.no_grad():
        return compare(works, "dense", device, rounds, 10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "optim.json")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    device = torch.device(options.device)
    ways = {name: Way(name, device) for name in (*OPTIMIZERS.names(), "foreach")}
    updates = compare({name: way.apply for name, way in ways.items()}, BASE, device, options.rounds, 3)
    steps = compare({name: way.step for name, way in ways.items()}, BASE, device, options.rounds, 1)
    weights = sum(each.numel() for each in nn.ModuleList([ways[BASE].module]).parameters())
    record = {
        "bench": "optim",
        "device": str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": weights,
        "tokens_per_step": BATCH * SIZES["max_seq_len"],
        "rounds": options.rounds,
        "clock": options.clock,
        "update": updates,
        "step": steps,
        "goals": GOALS,
        "mask": masks(device, options.rounds),
        "sparse": sparse(device, options.rounds),
    }
    print(f"{weights:,} parameters, {record['tokens_per_step']:,} tokens per step, {device}")
    for name in ways:
        goal = f"   (step: at most {GOALS[name]})" if name in GOALS else ""
        print(
            f"{name:16} update {updates[name]['ms']:8.2f} ms {updates[name]['ratio']:6.2f}x"
            f"   step {steps[name]['ms']:8.1f} ms {steps[name]['ratio']:6.3f}x{goal}"
        )
    for part in ("mask", "sparse"):
        print(
            part,
            "  ".join(f"{key} {each['ratio']}x" for key, each in record[part].items() if key != "weights"),
        )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(steps[name]["ratio"] <= goal for name, goal in GOALS.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
