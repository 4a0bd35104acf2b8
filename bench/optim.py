"""What an update costs with each optimizer and with pruning, against torch's fused and foreach AdamW.

    python bench/optim.py                    # prints ratios, writes bench/results/optim.json
    python bench/optim.py --device cuda
    python bench/optim.py --parts update mask --only adamwspam adamwprune

    update      everything from complete gradients to new weights: measure, clip, step (all on one GPT)
    step        a whole training step of the same GPT, forward and backward too
    mask        making new masks, exact and by a sample, in updates of AdamW
    sparse      a linear layer on pruned weights, by torch's kernel for them / dense; only where there is one

Like is compared with like: a name alone is on torch's fused kernels and measured against fused AdamW; with
"foreach" it is on kernels over lists and measured against AdamW on these. Goals hold for both.

Ways are interleaved, forwards and backwards; a figure is the median over the rounds of this way's time / that
of its base in the same round. `--clock cpu` counts the time of this process's threads instead of the
wall's, for a machine that others use too (with OMP_NUM_THREADS=1, for threads that wait count as well).
In updates one gradient in 2000 is a thousand times its usual size, all in a sixteenth of the rows, which is
about what AdamWSPAM clips when a small GPT learns text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
LISTS = " foreach"
"""Ends the name of a way that is on kernels over lists of tensors."""
SPIKES = 2000
"""Gradients of which one is a spike."""


class Way:
    """One model with one optimizer, taking steps on the same batch."""

    def __init__(self, name: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.module = GPT(GPTConfig(**SIZES)).to(device)
        self.ids = torch.randint(SIZES["vocab_size"], (BATCH, SIZES["max_seq_len"]), device=device)
        optimizer_name = name.removesuffix(LISTS)
        self.optimizer = build_optimizer(self.module, OptimConfig(name=optimizer_name))
        if name.endswith(LISTS):
            for group in self.optimizer.param_groups:
                group.update(fused=False, foreach=True)
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
        self.kept = [1e-3 * torch.randn_like(each) for each in self.module.parameters()]
        for _ in range(12):  # past what an optimizer does only at the beginning
            self.prepare()
            self.apply()
        if self.pruner is not None:
            self.pruner.prune(1.0)

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

    def prepare(self) -> None:
        """Gradients as in the last update, with new spikes."""
        for each, gradient in zip(self.module.parameters(), self.kept, strict=True):
            each.grad = gradient.clone()
            flat = each.grad.view(-1)
            places = torch.randint(max(len(flat) // 16, 1), (len(flat) // SPIKES,), device=flat.device)
            flat[places] *= 1e3

    def apply(self) -> None:
        """The update alone."""
        self.update.apply(self.optimizer, [])


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


@dataclass(frozen=True)
class Work:
    """What is timed, and what comes before it untimed."""

    do: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    base: str = BASE

    def seconds(self, device: torch.device) -> float:
        self.prepare()
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = clock()
        self.do()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began


def compare(works: dict[str, Work], device: torch.device, rounds: int, repeat: int = 1) -> Any:
    """{way: {median milliseconds, median of the ratios to its base}}"""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work.seconds(device)
    for turn in range(rounds):
        for name in works if turn % 2 else reversed(works):
            spent[name].append(statistics.median(works[name].seconds(device) for _ in range(repeat)))
    return {
        name: {
            "ms": round(1e3 * statistics.median(times), 3),
            "ratio": round(
                statistics.median(a / b for a, b in zip(times, spent[works[name].base], strict=True)), 3
            ),
        }
        for name, times in spent.items()
    }


def masks(device: torch.device, rounds: int) -> Any:
    """New masks of the model's matrices, and of 20 million weights, per update of fused AdamW."""
    way = Way("adamwprune", device)
    assert way.pruner is not None
    works = {"update": Work(way.apply, way.prepare, base="update")}
    for threshold in ("exact", "sampled"):
        config = way.pruner.config.model_copy(update={"threshold": threshold})
        pruner = build_pruner(way.module, way.optimizer, config, total_steps=10, optimizer_name="adamw")
        works[threshold] = Work(lambda pruner=pruner: pruner.prune(1.0, seed=1), base="update")
    return {"weights": way.pruner.total, **compare(works, device, rounds)}


def sparse(device: torch.device, rounds: int) -> Any:
    """Times of y = x W^T for W of 1024 x 1024 and 64 rows of x, relative to dense."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # sparse layouts call themselves a prototype
    weight, x = torch.randn(1024, 1024, device=device), torch.randn(64, 1024, device=device)
    works = {"dense": Work(lambda: F.linear(x, weight), base="dense")}
    for sparsity in (0.5, 0.7, 0.9, 0.95, 0.99):
        mask = torch.rand_like(weight) > sparsity
        stored = (weight * mask).to_sparse_csr()
        works[f"csr {sparsity}"] = Work(lambda stored=stored: (stored @ x.T).T, base="dense")
    if device.type == "cuda":
        half, wide = weight.half(), x.half()
        mask = torch.tensor([1, 1, 0, 0], device=device).tile(1024, 256).bool()
        packed = torch.sparse.to_sparse_semi_structured(half * mask)
        works["dense fp16"] = Work(lambda: F.linear(wide, half), base="dense")
        works["2:4 fp16"] = Work(lambda: F.linear(wide, packed), base="dense")
    with torch.no_grad():
        return compare(works, device, rounds, 10)


def steps_of(part: str, device: torch.device, rounds: int, only: list[str]) -> Any:
    """`update` or `step` of every optimizer, and of those with a goal on lists too."""
    names = [name for name in OPTIMIZERS.names() if name in (BASE, *only)]
    names += [name + LISTS for name in (BASE, *GOALS)]
    works = {}
    for name in names:
        way, base = Way(name, device), BASE + LISTS if name.endswith(LISTS) else BASE
        works[name] = Work(way.apply, way.prepare, base) if part == "update" else Work(way.step, base=base)
    return compare(works, device, rounds, 3 if part == "update" else 1)


PARTS: dict[str, Callable[[torch.device, int, list[str]], Any]] = {
    "update": lambda device, rounds, only: steps_of("update", device, rounds, only),
    "step": lambda device, rounds, only: steps_of("step", device, rounds, only),
    "mask": lambda device, rounds, only: masks(device, rounds),
    "sparse": lambda device, rounds, only: sparse(device, rounds),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "optim.json")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", nargs="+", choices=OPTIMIZERS.names(), default=OPTIMIZERS.names())
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    device = torch.device(options.device)
    record = {
        "bench": "optim",
        "device": str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model": SIZES,
        "tokens_per_step": BATCH * SIZES["max_seq_len"],
        "rounds": options.rounds,
        "clock": options.clock,
        "goals": GOALS,
    }
    missed = False
    for part in options.parts:
        record[part] = PARTS[part](device, options.rounds, options.only)
        for name, each in record[part].items():
            if not isinstance(each, dict):
                continue
            goal = GOALS.get(name.removesuffix(LISTS)) if part in ("update", "step") else None
            missed |= goal is not None and each["ratio"] > goal
            print(
                f"{part:7} {name:20} {each['ms']:9.2f} ms {each['ratio']:6.2f}x"
                + (f"   (goal {goal})" if goal else "")
            )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
