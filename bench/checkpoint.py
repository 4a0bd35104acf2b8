"""What a checkpoint costs: saving with and without hashes, loading with and without verifying, waiting.

    python bench/checkpoint.py              # up to GPT-2's 124 M parameters + Adam; some two minutes
    python bench/checkpoint.py --quick      # the small sizes; seconds
    python bench/checkpoint.py --device cuda

Ways that are compared run back to back in changing order. Times are wall clock, for that is what a run
waits, so other programs disturb them: beside the median of the rounds' ratios, with quartiles, stands the
ratio of the quietest rounds (the quicker quarter of each way), and that one is judged. `run` trains a real
loop with a save every few steps and compares saving in between with saving aside, end to end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from torchstone.tracking import checkpoint as format
from torchstone.tracking import hashed_file
from torchstone.train.progress import Progress
from torchstone.train.saving import Keeping, Saver
from torchstone.train.snapshot import restore_snapshot, take_snapshot, write_snapshot

SIZES = {"tiny": (64, 2), "small": (256, 8), "10M": (1024, 10), "124M": (1024, 118)}
"""Name -> width and number of square linear layers."""
ROUNDS = {"tiny": 20, "small": 20, "10M": 16, "124M": 3}
HASH_LIMIT, LARGE = 1.15, 100e6
"""A second core is what makes it hold; below LARGE bytes fsync and the folders decide, and noise."""
BLOCKED_LIMIT_MS = 150.0
"""Asked of an accelerator at 124 M + Adam; on the CPU it is reported only."""


def trained(width: int, layers: int, device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and an Adam with its state."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(width, width, device=device) for _ in range(layers)))
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return module, optimizer


class NoHash:
    """Takes the place of sha256 and does nothing."""

    def update(self, data: object) -> None: ...

    def hexdigest(self) -> str:
        return "0" * 64


@contextmanager
def without_hashes() -> Iterator[None]:
    with patch.object(hashed_file.hashlib, "sha256", lambda *_: NoHash()):
        yield


def compared(
    ways: dict[str, Callable[[], None]], rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each way, round by round, in changing order, after one round to warm up."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            before()
            start = time.perf_counter()
            ways[name]()
            if turn:
                spent[name].append(time.perf_counter() - start)
    return spent


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    quiet = quickest(over) / quickest(under)
    return {name: round(value, 3) for name, value in
            {"quiet": quiet, "median": middle, "low": low, "high": high}.items()}  # fmt: skip


def quickest(seconds: Sequence[float]) -> float:
    """Mean of the quicker quarter."""
    return statistics.mean(sorted(seconds)[: max(len(seconds) // 4, 1)])


def milliseconds(seconds: Sequence[float]) -> float:
    return round(1e3 * quickest(seconds), 2)


def measure(name: str, folder: Path, device: str, rounds: int) -> dict[str, Any]:
    module, optimizer = trained(*SIZES[name], device)
    step = 0

    def save() -> None:
        nonlocal step
        step += 1
        write_snapshot(
            folder, take_snapshot(module, optimizer, Progress(step=step)), config_hash="c", model={}
        )

    def save_without() -> None:
        with without_hashes():
            save()

    def save_and_read_again() -> None:
        with without_hashes():
            save()
        for file in (folder / f"step-{step}").iterdir():
            format.sha256(file)

    def clear() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()

    saving = compared({"hashed": save, "plain": save_without}, rounds, clear)
    again = compared({"read again": save_and_read_again, "plain": save_without}, max(rounds // 5, 2), clear)
    clear()
    save()
    path = folder / f"step-{step}"
    size = sum(file.stat().st_size for file in path.iterdir())
    manifest = format.read_json(path / format.MANIFEST)

    def load() -> None:
        restore_snapshot(format.open_checkpoint(path), module, optimizer)

    def load_unverified() -> None:
        restore_snapshot(format.Checkpoint(path, step, manifest), module, optimizer)

    rounds = max(rounds // 4, 2)
    loading = compared({"verified": load, "plain": load_unverified}, rounds)
    blocked = blocking(module, optimizer, folder, rounds, device)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "size": name,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "bytes": size,
        "save_ms": milliseconds(saving["hashed"]),
        "hashing": ratio(saving["hashed"], saving["plain"]),
        "reading_again": ratio(again["read again"], again["plain"]),
        "load_ms": milliseconds(loading["verified"]),
        "load_plain_ms": milliseconds(loading["plain"]),
        "blocked_ms": {way: milliseconds(times) for way, times in blocked.items()},
        "blocked_share": ratio(blocked["aside"], blocked["between"]),
    }


def blocking(
    module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, rounds: int, device: str
) -> dict[str, list[float]]:
    """How long the loop stands still for a save, both ways."""
    home = folder / "blocking"
    savers = {
        way: Saver(Keeping(run_dir=home / way, config_hash="c", model={}, keep_last=1, async_save=aside))
        for way, aside in (("between", False), ("aside", True))
    }
    step = 0
    spent: dict[str, list[float]] = {way: [] for way in savers}
    for turn in range(rounds + 1):
        for way in savers if turn % 2 else reversed(list(savers)):
            step += 1
            if device != "cpu":
                torch.accelerator.synchronize()
            start = time.perf_counter()
            savers[way].save(module, optimizer, Progress(step=step))
            if turn:
                spent[way].append(time.perf_counter() - start)
            savers[way].wait()
    return spent


def run_both_ways(name: str, folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Some steps with a save every fifth, saved in between and aside: whole time, and equal results."""
    steps, every = 40, 5

    def train(aside: bool | None) -> Callable[[], None]:
        def run() -> None:
            module, optimizer = trained(*SIZES[name], device)
            home = folder / f"run-{aside}"
            if aside is None:
                saver = None
            else:
                saver = Saver(Keeping(run_dir=home, config_hash="c", model={}, async_save=aside))
            x = torch.ones(32, SIZES[name][0], device=device)
            for step in range(1, steps + 1):
                module(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if saver is not None and step % every == 0:
                    saver.save(module, optimizer, Progress(step=step))
            if saver is not None:
                saver.wait()
            shutil.rmtree(home, ignore_errors=True)

        return run

    spent = compared({"between": train(False), "aside": train(True), "never": train(None)}, rounds)
    return {
        "size": name,
        "steps": steps,
        "saves": steps // every,
        "between": ratio(spent["between"], spent["never"]),
        "aside": ratio(spent["aside"], spent["never"]),
        "aside_over_between": ratio(spent["aside"], spent["between"]),
    }


def peak_copies(name: str, aside: bool, folder: Path) -> float:
    """Memory that a save takes at its peak, in copies of the state: the kernel's mark, in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", name, *(["--aside"] if aside else []), "--folder", str(folder)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout)


def _print_peak(name: str, aside: bool, folder: Path) -> None:
    module, optimizer = trained(*SIZES[name], "cpu")
    saver = Saver(Keeping(run_dir=folder / "peak", config_hash="c", model={}, async_save=aside))
    state = 12 * sum(parameter.numel() for parameter in module.parameters())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _peak_bytes()
    saver.save(module, optimizer, Progress(step=1))
    saver.wait()
    print(round((_peak_bytes() - before) / state, 3))


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def hash_speed() -> float:
    data = torch.zeros(64 << 20, dtype=torch.uint8).numpy()
    start = time.perf_counter()
    hashlib.sha256(data).digest()
    return round(len(data) / (time.perf_counter() - start) / 1e9, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only tiny and small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary folder")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "checkpoint.json")
    parser.add_argument("--peak", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--aside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        _print_peak(options.peak, options.aside, options.folder)
        return 0
    names = ["tiny", "small"] if options.quick else list(SIZES)
    copies: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made) / "checkpoints"
        found = [told(measure(name, folder, options.device, ROUNDS[name])) for name in names]
        runs = [run_both_ways(name, folder, options.device, 3) for name in names[:3]]
        if sys.platform == "linux" and options.device == "cpu":
            copies = {way: peak_copies(names[-1], way == "aside", Path(made)) for way in ("between", "aside")}
    for each in runs:
        print(
            f"run    {each['size']:6} {each['saves']} saves in {each['steps']} steps: "
            f"x{each['between']['quiet']:.2f} in between, x{each['aside']['quiet']:.2f} aside"
        )
    record = {
        "bench": "checkpoint",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "sha256_gb_per_s": hash_speed(),
        "peak_copies_of_the_state": copies,
        "sizes": found,
        "runs": runs,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    print(f"sha256 {record['sha256_gb_per_s']} GB/s; copies of the state at the peak of a save: {copies}")
    return 0 if all(holds(each, options.device) for each in found) else 1


def told(each: dict[str, Any]) -> dict[str, Any]:
    hashing, again = each["hashing"], each["reading_again"]
    print(
        f"{each['size']:6} {each['bytes'] / 1e6:8.1f} MB  save {each['save_ms']:7.1f} ms, "
        f"hashing x{hashing['quiet']:.2f} (median {hashing['median']:.2f}, quartiles {hashing['low']:.2f} "
        f"{hashing['high']:.2f}), by reading again x{again['quiet']:.2f}  "
        f"load {each['load_ms']:7.1f} ms (without verifying {each['load_plain_ms']:.1f})  "
        f"blocked {each['blocked_ms']['between']:.1f} -> {each['blocked_ms']['aside']:.1f} ms",
        flush=True,
    )
    return each


def holds(each: dict[str, Any], device: str) -> bool:
    """Whether the limits are met: of hashing for large files, of waiting on an accelerator."""
    if each["bytes"] > LARGE and each["hashing"]["quiet"] > HASH_LIMIT:
        return False
    return device == "cpu" or each["blocked_ms"]["aside"] <= BLOCKED_LIMIT_MS


if __name__ == "__main__":
    raise SystemExit(main())
