"""Write a model down in proven formats: what `torchstone export` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone.study.kinds.record import Ended, JobKind, Order, require_keys

if TYPE_CHECKING:
    from torchstone.tracking.store import Store

KEYS = ("target", "formats", "out", "task", "tokenizer", "trust", "seed", "replace")


def prepare(config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    from torchstone.export.bundle import require_place, require_writer

    require_keys(config, KEYS, needed=("target",))
    for each in _formats(config):
        require_writer(each)
    order: dict[str, Any] = {"job": dict(config)}
    if config.get("out"):
        place = Path(config["out"]).absolute()
        require_place(place, bool(config.get("replace")))
        order["out"] = str(place)
    return order


def _formats(config: Mapping[str, Any]) -> Any:
    from torchstone.export.formats import DEFAULT, chosen

    wanted = config.get("formats") or DEFAULT
    return chosen(wanted if isinstance(wanted, str) else ",".join(wanted))


def run(order: Order) -> Ended:
    """A bundle that is there already is this job's own, of a worker that was killed before it could tell."""
    from torchstone.export.bundle import export
    from torchstone.export.source import open_source

    job, place = order["job"], Path(order.get("out") or Path(order["run_dir"]) / "bundle")
    source = open_source(
        job["target"], task=job.get("task"), tokenizer=job.get("tokenizer"), trust=job.get("trust"),
        seed=job.get("seed") or 0,
    )  # fmt: skip
    made = export(source, place, _formats(job), replace=True)
    held = made.verdict in ("pass", "warn")
    return Ended("completed" if held else "failed", 0 if held else 1, made.to_dict())


KIND = JobKind("export", "write a model down in proven formats", KEYS, prepare, run)
