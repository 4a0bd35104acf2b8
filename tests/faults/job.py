"""The run that faults rain on, and the server that starts it: a few tenths of a second
from start to end, with saves, validations and epochs that do not fall together.

`Server.train` goes through the command line, as a user does; everything else is read from the run's folder
and its store.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODEL = HERE / "tiny_model.py"


def write_text(folder: Path) -> Path:
    """Five small files: four to train on, one to validate with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(5):
        lines = [f"{number}: line {line} follows line {line - 1}\n" for line in range(1, 6)]
        (folder / f"{number}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def until(is_so: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Look again and again."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class Job:
    """One run in a folder of its own, `base`: its run folder `one`, its store and its log beside it."""

    def __init__(self, server: Server, base: Path, changes: Iterable[str] = ()) -> None:
        self.server = server
        self.base = base
        self.base.mkdir(parents=True)
        self.run_dir = base / "runs" / "one"
        self.changes = tuple(changes)
        self.log = base / "log.txt"

    @property
    def argv(self) -> list[str]:
        knobs = (
            "data.tokenizer=bytes", "data.sequence_length=16", "data.validation_split=0.2",
            "train.batch_size=2", "train.gradient_accumulation_steps=3", "train.epochs=3",
            "train.eval_every=5", "train.checkpoint_every=3", "optim.learning_rate=0.05",
            "tracking.dashboard=false", *self.changes,
        )  # fmt: skip
        return [
            "train", str(MODEL), "--data", str(self.server.text), "--run-dir", str(self.run_dir),
            "--resume", "auto", "--device", "cpu", "--sample", "0",
            *(part for knob in knobs for part in ("--set", knob)),
        ]  # fmt: skip

    def train(self, fault: dict[str, Any] | None = None, *, trace: bool = False) -> dict[str, Any]:
        """Start or continue the run under a fault; how the process ended."""
        return self.server.ask(
            {
                "argv": self.argv,
                "log": str(self.log),
                "base": str(self.base / "runs"),
                "fault": fault,
                "trace": trace,
            }
        )

    def said(self) -> str:
        """Everything its processes printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class ForkServer:
    """A program that has torch loaded and answers lines of JSON; with a text to train on."""

    def __init__(self, program: Path, home: Path) -> None:
        self.home, self.text = home, write_text(home / "text")
        self.environment = environment(home)
        self.log = home / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", str(program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
            )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the fork server is gone, exit code {self.process.wait(timeout=30)}: {self.said()}"
            )
        told: dict[str, Any] = json.loads(line)
        return told

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


class Server(ForkServer):
    """The process in `server.py`."""

    def __init__(self, home: Path) -> None:
        super().__init__(HERE / "server.py", home)
        warm = Job(self, home / "warm", ["tracking.dashboard=true", "train.max_steps=4"])
        told = self.ask({"argv": warm.argv, "warm": True})
        if told != {"code": 0, "threads": 1}:
            raise RuntimeError(f"the fork server is not fit: {told}; {self.said()}")

    @contextlib.contextmanager
    def watching(self, folder: Path) -> Iterator[dict[str, Any]]:
        """Have every checkpoint below `folder` read while it lasts; what was seen is there afterwards."""
        report, seen = folder / "watched.json", dict[str, Any]()
        pid = self.ask({"watch": str(folder), "report": str(report)})["pid"]
        try:
            yield seen
        finally:
            self.ask({"end": pid})
            seen |= json.loads(report.read_text(encoding="utf-8"))


def environment(home: Path) -> dict[str, str]:
    """One thread per library, the house on the path, caches under `home`."""
    paths = [str(HERE.parent), *(path for path in sys.path if path)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "TORCHSTONE_CACHE": str(home / "cache"),
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
