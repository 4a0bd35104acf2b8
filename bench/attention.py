"""What attention mechanisms cost against torch's fused attention, forward and backward, as sequences grow.

    python bench/attention.py                        # prints ratios, writes bench/results/attention.json
    python bench/attention.py --device cuda --only ra mla        # some, with the goals for a GPU

One attention layer of each mechanism, of equal width (head width D, latents of width D), on the same input.

    forward     time of a forward pass without gradient / that of `sdpa`
    training    time of a forward and a backward pass / that of `sdpa`
    saved       bytes that the forward pass keeps for the backward pass / those of `sdpa` (on a GPU: the peak)

Ways are interleaved, forwards and backwards; a figure is the median over the rounds of this way's time / that
of `sdpa` in the same round. `--clock cpu` counts the time of this process's threads instead of the wall's,
for a machine that others use too (with OMP_NUM_THREADS=1, for threads that wait count as well).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchstone.nn.attention.context import AttentionContext, Handoff
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import AttentionConfig
from torchstone.nn.gpt import GPTConfig

D, HEADS = 64, 2
LENGTHS = (1024, 2048, 4096, 8192)
WAYS: dict[str, dict[str, Any]] = {
    "sdpa": {"name": "sdpa"},
    "mla": {"name": "mla", "latent": D},
    "ra": {"name": "ra", "window": None},
    "ra-band": {"name": "ra", "window": 64},
    "mla-ra": {"name": "mla-ra", "latent": D, "window": None},
    "ra-ct-entropy": {"name": "ra-ct", "statistic": "entropy"},
    "ra-ct-max": {"name": "ra-ct", "statistic": "max"},
    "ra-ct-topk": {"name": "ra-ct", "statistic": "topk"},
    "ra-folded": {"name": "ra-folded"},
    "lens": {"name": "lens"},
    "gated": {"name": "gated"},
    "kv-pruned": {"name": "kv-pruned", "importance": "norm", "keep": 391, "recent": 64},
    "kv-learned": {"name": "kv-pruned", "importance": "norm", "budget": "learned"},
    "kv-v-only": {"name": "kv-pruned"},
    "kv-reused": {"name": "kv-pruned", "drop": "keys-values"},
    "kv-recent": {"name": "kv-pruned", "importance": "recency"},
    "lens-narrow": {"name": "lens", "compress": 32},
}
LONGEST = {
    "kv-pruned": 2048,
    "kv-learned": 2048,
    "kv-v-only": 1024,
    "kv-reused": 1024,
    "ra-ct-max": 4096,
    "ra-ct-topk": 4096,
}
"""What looks at every weight stops here."""
GOALS = {"ra": 2.1, "ra-ct-entropy": 1.5, "mla": 1.1}
"""Of `training`, on a GPU."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Way:
    """One layer and an input of `tokens` tokens."""

    def __init__(self, name: str, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        config = GPTConfig(
            d_model=D * HEADS, num_heads=HEADS, max_seq_len=tokens, attention=AttentionConfig(**WAYS[name])
        )
        torch.manual_seed(0)
        record = ATTENTIONS.get(WAYS[name]["name"])
        self.layer = record.make(config, 0).to(device, dtype)
        self.x = torch.randn(1, tokens, D * HEADS, device=device, dtype=dtype)

    def out(self) -> Tensor:
        found: Tensor = self.layer(self.x, AttentionContext(), Handoff(), None).out
        return found

    def forward(self) -> None:
        with torch.no_grad():
            self.out()

    def training(self) -> None:
        self.out().sum().backward()

    def saved_bytes(self) -> int:
        """Distinct memory that the backward pass needs, parameters and the input left out."""
        if self.x.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.training()
            return torch.cuda.max_memory_allocated() - before
        own = {each.untyped_storage().data_ptr() for each in (*self.layer.parameters(), self.x)}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = self.out()
        found = sum(each.untyped_storage().nbytes() for each in kept.values())
        del out
        return found


def compare(
    works: dict[str, Callable[[], Any]], clock: Callable[[], float], device: torch.device, rounds: int
) -> dict[str, float]:
    """Way -> median of its ratios to sdpa."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-1, rounds):
        for name in works if turn % 2 else reversed(works):
            began = clock()
            works[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 0:  # the first turn warms up
                spent[name].append(clock() - began)
    return {
        name: round(statistics.median(a / b for a, b in zip(times, spent["sdpa"], strict=True)), 3)
        for name, times in spent.items()
    }


def measure(tokens: int, names: list[str], args: Any, device: torch.device) -> dict[str, dict[str, float]]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    ways = {name: Way(name, tokens, device, dtype) for name in names if tokens <= LONGEST.get(name, tokens)}
    clock = CLOCKS[args.clock]
    found = {
        "forward": compare({name: each.forward for name, each in ways.items()}, clock, device, args.rounds),
        "training": compare({name: each.training for name, each in ways.items()}, clock, device, args.rounds),
    }
    saved = {name: each.saved_bytes() for name, each in ways.items()}
    found["saved"] = {name: round(each / saved["sdpa"], 3) for name, each in saved.items()}
    return {name: {what: found[what][name] for what in found} for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "attention.json")
    args = parser.parse_args()
    device = torch.device(args.device)
    names = list(dict.fromkeys(["sdpa", *args.only]))

    lengths: dict[str, Any] = {}
    for tokens in args.lengths:
        lengths[str(tokens)] = measure(tokens, names, args, device)
        print(f"\nT = {tokens}: ratios to sdpa")
        for name, row in lengths[str(tokens)].items():
            goal = f"  goal {GOALS[name]}" if name in GOALS and device.type == "cuda" else ""
            print(f"  {name:14} " + "  ".join(f"{what} {value:6.2f}" for what, value in row.items()) + goal)
    result = {
        "bench": "attention",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "dtype": "bfloat16" if device.type == "cuda" else "float32",
        "threads": torch.get_num_threads(),
        "clock": args.clock,
        "rounds": args.rounds,
        "heads": HEADS,
        "head_width": D,
        "goals_on_a_gpu": GOALS,
        "lengths": lengths,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwrote {args.json}")


if __name__ == "__main__":
    main()
