"""A run without its weights, small enough for a mail: what it was told, what it ran on, what it measured.

    write_capsule(Path("runs/first"), Path("first.capsule.zip"))      # at most 5 MB
    with opened(Path("first.capsule.zip")) as capsule: capsule.losses # [(step, key, value), ...]

`torchstone reproduce` takes the first steps again and compares bit for bit (`train/reproduce.py`). Code goes
in where the model was a file or a folder; a commit and the diff since then are in the environment.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone import _files
from torchstone._errors import DataError, UsageError
from torchstone._version import __version__
from torchstone.adapt.target import parse_target
from torchstone.export.archive import pack, unpack
from torchstone.export.standalone.runtimes import MANIFEST
from torchstone.tracking.environment import CODE
from torchstone.tracking.rows import FACTS
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store, default_store

SCHEMA = "torchstone.capsule-content/1"
LIMIT_BYTES = 5_000_000
FIRST_STEPS = 20
"""Steps whose measurements are told apart, to be taken again."""
COMPARED = ("train/loss", "train/grad_norm")
CODE_FOLDER, ABOUT, METRICS = "code", "capsule.json", "metrics.jsonl"
_COPIED = ("config.json", "environment.json", "run.json", "report.json")
_DASHBOARDS = ("dashboard.html", "dashboard.png")
_CODE_LIMIT = 200
"""Files of the model's folder; beyond it is no model but a project."""


@dataclass(frozen=True)
class Capsule:
    """One that was opened: its folder, which goes with the context, and what it says."""

    folder: Path
    about: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as `Resolved.from_json` takes it."""
        return dict(_files.read_json(self.folder / "config.json"))

    @property
    def facts(self) -> dict[str, Any]:
        """Fingerprints of model and data, batch, hardware, of the first session."""
        return dict(self.about.get("facts") or {})

    @property
    def losses(self) -> list[tuple[int, str, float]]:
        """(step, metric, value) of the first steps, exact."""
        return [(int(step), str(key), float.fromhex(value)) for step, key, value in self.about["first_steps"]]

    @property
    def code(self) -> str | None:
        """The TARGET that names the model's own files in here, if it came from files."""
        name = self.about.get("code")
        if name is None:
            return None
        path, colon, class_name = str(name).partition(":")
        return str(self.folder / CODE_FOLDER / path) + colon + class_name


def write_capsule(run_dir: Path, archive: Path) -> Path:
    """Pack a run. UsageError where it is none or measured nothing; DataError above 5 MB."""
    run = RunFolder.open(run_dir)
    with tempfile.TemporaryDirectory(prefix="torchstone-capsule-") as place:
        folder = Path(place)
        for name in _COPIED:
            if (run.path / name).is_file():
                _files.write_bytes(folder / name, (run.path / name).read_bytes())
        target = run.read_config()["values"]["model.target"]["value"]
        about = {"schema": SCHEMA, "torchstone": __version__, "run_id": run.run_id, "target": target}
        about |= _measured(run, folder) | {"code": _copy_code(str(target), folder / CODE_FOLDER)}
        _files.write_json(folder / ABOUT, about)
        for names in (_DASHBOARDS, _DASHBOARDS[1:], ()):  # pictures leave first
            _put(run.path, folder, names)
            _seal(folder)
            pack(folder, archive)
            if (size := archive.stat().st_size) <= LIMIT_BYTES:
                return archive
        largest = max(
            (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
        )
    archive.unlink()
    raise DataError(
        f"the capsule would have {size / 1e6:.1f} MB, the limit is {LIMIT_BYTES / 1e6:g} MB",
        where=largest.relative_to(folder).as_posix(),
        why="this is the largest file in it",
    )


@contextmanager
def opened(archive: Path) -> Iterator[Capsule]:
    """Unpack with the same distrust as a bundle's archive; the folder is gone afterwards."""
    if not archive.is_file():
        raise UsageError(f"there is no capsule {archive}", next="torchstone export RUN --capsule writes one")
    with tempfile.TemporaryDirectory(prefix="torchstone-capsule-") as place:
        folder = unpack(archive, Path(place) / "capsule")
        try:
            about = dict(_files.read_json(folder / ABOUT))
            files = _files.read_json(folder / MANIFEST)["files"]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise DataError(f"{archive.name} is no capsule", why=str(problem)) from None
        if about.get("schema") != SCHEMA:
            raise DataError(f"{archive.name} is no capsule", why=f"its schema is {about.get('schema')!r}")
        for name, known in files.items():
            if _files.sha256(folder / name) != known["sha256"]:
                raise DataError(
                    f"{archive.name} is damaged", where=name, why="other content than was written"
                )
        yield Capsule(folder, about)


def _measured(run: RunFolder, folder: Path) -> dict[str, Any]:
    """All metrics as lines, those of the first steps to the last bit, and the facts of the first session."""
    with Store.open(default_store(run.path), readonly=True) as store:
        rows = store.metrics(run.run_id)
        facts = [each.data for each in store.events(run.run_id) if each.kind == FACTS]
    lines = [json.dumps({"key": row.key, "step": row.step, "value": row.value}) for row in rows]
    _files.write_text(folder / METRICS, "".join(f"{line}\n" for line in lines))
    first = [
        (row.step, row.key, float(row.value).hex())
        for row in rows
        if row.key in COMPARED and row.step <= FIRST_STEPS
    ]
    if not first:
        raise UsageError(
            f"the run {run.run_id} measured nothing in its first {FIRST_STEPS} steps",
            why="there would be nothing to compare a reproduction with",
            next="train with --set tracking.log_every=1",
        )
    return {"first_steps": sorted(first), "facts": facts[0] if facts else None}


def _copy_code(target: str, into: Path) -> str | None:
    """The target inside the capsule: the user's own files, so that another machine can build the model."""
    try:
        found = parse_target(target)
    except UsageError:
        return None  # the folder is gone, and the commit tells what it was
    if found.kind not in ("file", "folder"):
        return None
    home = found.path if found.kind == "folder" else found.path.parent
    wanted = [path for path in sorted(home.rglob("*")) if path.is_file() and path.suffix in (*CODE, ".json")]
    wanted = [
        path for path in wanted if not any(part.startswith(".") for part in path.relative_to(home).parts)
    ]
    if found.kind == "file" and len(wanted) > _CODE_LIMIT:
        wanted = [found.path]
    for path in wanted[:_CODE_LIMIT]:
        _files.write_bytes(into / path.relative_to(home), path.read_bytes())
    name = "" if found.kind == "folder" else found.path.name
    return name + (f":{found.class_name}" if found.class_name else "")


def _put(run_dir: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in _DASHBOARDS:
        (folder / name).unlink(missing_ok=True)
        if name in names and (run_dir / name).is_file():
            _files.write_bytes(folder / name, (run_dir / name).read_bytes())


def _seal(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)
    _files.write_json(folder / MANIFEST, {"schema": SCHEMA, "files": _files.inventory(folder)})
