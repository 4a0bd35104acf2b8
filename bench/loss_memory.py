"""What a chunked loss saves in memory and costs in time, against the plain cross entropy.

    python bench/loss_memory.py                             # GPT-2's vocabulary, 1,024 tokens, width 256
    python bench/loss_memory.py --tokens 4096 --device cuda

Peak memory is what torch's allocator held at most during forward and backward, beyond inputs and weights.
Times are medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from torchstone.train.chunked_loss import head_loss, logits_loss


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    level = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("tokens", 1024), ("vocab", 50257), ("width", 256), ("chunk", 128), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.width, device=device, requires_grad=True)
    weight = (torch.randn(options.vocab, options.width, device=device) * 0.02).requires_grad_()
    targets = torch.randint(options.vocab, (options.tokens,), device=device)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, [hidden, weight])

    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: gradients(F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")),
        "from logits": lambda: gradients(logits_loss(F.linear(hidden, weight), targets, options.chunk)[0]),
        "from hidden states": lambda: gradients(head_loss(hidden, weight, None, targets, options.chunk)[0]),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, work in ways.items():
            spent[name].append(seconds(work, device))
    logits_mib = 4 * options.tokens * options.vocab / 2**20
    rows = {
        name: {"peak_mib": peak_bytes(work, device) / 2**20, "seconds": statistics.median(spent[name])}
        for name, work in ways.items()
    }
    print(json.dumps({**vars(options), "logits_mib": logits_mib, "ways": rows}, indent=2))


if __name__ == "__main__":
    main()
