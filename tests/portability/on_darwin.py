"""What a user does on something like macOS, told in a file for `test_macos.py`; argument: a folder."""

from __future__ import annotations

import darwin  # the first of all imports: what follows must not see Linux

# isort: split

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchstone.adapt import landlock, walls
from torchstone.cli.main import run
from torchstone.data.loader import Loader
from torchstone.data.pack import TokenBlocks
from torchstone.tracking.environment import cpu_model, usable_cores

SETTINGS = ["data.tokenizer=bytes", "data.sequence_length=16", "train.batch_size=2"]


def interrupted_and_resumed(home: Path) -> list[int]:
    """Exit codes of a training that SIGTERM stops after two steps, and of the rest of it."""
    command = ["train", "zoo:gpt-nano", "--data", str(home / "corpus.txt"), "--run-dir", str(home / "run")]
    command += ["--max-steps", "4", "--device", "cpu"]
    command += [part for each in SETTINGS for part in ("--set", each)]
    handle = register_optimizer_step_post_hook(_stop_after_two_steps([]))
    first = run(command)
    handle.remove()
    return [first, run([*command, "--resume", "auto"])]


def _stop_after_two_steps(taken: list[int]) -> Any:
    def count(optimizer: Any, *_: Any) -> None:
        if not optimizer.param_groups[0]["params"][0].is_meta:  # else a twin that shows a checkpoint's size
            taken.append(1)
        if len(taken) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    return count


def drawn_by_a_worker(home: Path) -> list[list[list[int]]]:
    """Batches of a token file by this process and by one that is spawned."""
    tokens = np.memmap(home / "tokens.bin", np.uint16, mode="w+", shape=(16,))
    tokens[:] = np.arange(16)
    blocks = TokenBlocks(tokens, 4)
    made = [Loader(blocks, 2, num_workers=workers) for workers in (0, 1)]
    return [[batch["input_ids"].tolist() for batch, _ in loader] for loader in made]


def missing_walls() -> list[str]:
    """What an isolated worker says of its protections."""
    found = walls.Walls()
    walls.adopt_orphans()
    walls.die_with_parent()
    walls.own_processes(found)
    for name, step in (("fence", landlock.version), ("no new privileges", lambda: walls._prctl(38, 1))):
        found.attempt(name, step)
    return found.missing


def main(home: Path) -> None:
    (home / "corpus.txt").write_text("the cat sat on the mat, and the dog under the hat. " * 60)
    told = {
        "exit_codes": interrupted_and_resumed(home),
        "drawn": drawn_by_a_worker(home),
        "walls": missing_walls(),
        "cores": usable_cores(),
        "cpu": cpu_model(),
        "platform": sys.platform,
        "left": darwin.linux_only_names(),
    }
    (home / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
