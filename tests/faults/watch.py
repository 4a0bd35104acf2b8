"""A reader that never rests: opens every checkpoint the moment it can be seen, and follows the pointers.

    python tests/faults/watch.py FOLDER REPORT        until SIGTERM; writes what it saw as JSON

A checkpoint that loses its name while it is being read was taken away, which is allowed; one that keeps its
name and is not whole is a broken law.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


class Watcher:
    """Looks at every run folder below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[tuple[str, int, int]] = set()
        self.looks = 0
        self.broken: list[str] = []

    def look(self) -> None:
        self.looks += 1
        for run_dir in self.folder.glob("*/runs/one"):
            for path in run_dir.glob("checkpoints/step-*"):
                self._open(path)
            for pointer in ("latest", "best"):
                self._follow(run_dir, pointer)

    def _open(self, path: Path) -> None:
        from faults.laws import damage

        before = identity(path)
        if before is None or before in self.seen:
            return
        problem = damage(path)
        if identity(path) != before:
            return
        self.seen.add(before)
        if problem:
            self.broken.append(f"visible and not whole: {path}: {problem}")

    def _follow(self, run_dir: Path, pointer: str) -> None:
        for _ in range(3):  # the folder may go and the pointer move on between two looks
            name = read(run_dir / pointer)
            if name is None or identity(run_dir / "checkpoints" / name.strip()) is not None:
                return
        self.broken.append(f"{pointer} of {run_dir} points to {name}, which is not there")

    def to_dict(self) -> dict[str, Any]:
        return {"looks": self.looks, "opened": len(self.seen), "broken": self.broken}


def identity(path: Path) -> tuple[str, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return str(path), found.st_ino, found.st_mtime_ns


def read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def main(folder: Path, report: Path) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    watcher, parent = Watcher(folder), os.getppid()
    while not stopped and os.getppid() == parent:  # nobody is watched for a server that was killed
        watcher.look()
        time.sleep(0.002)  # leaves the processor to the run that is watched
    watcher.look()
    report.write_text(json.dumps(watcher.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
