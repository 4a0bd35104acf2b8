"""Runs of the experiment store as recorded runs: its rows, its facts events and its marks, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchstone._errors import UsageError
from torchstone._registry import suggest
from torchstone.config.knobs import knobs_of
from torchstone.report.run_info import flat_config, live_status, perplexity
from torchstone.study.claim.recorded import THE_CLOCK, Reading, RecordedRun, Statement, states
from torchstone.tracking.marks import Marks, marks
from torchstone.tracking.rows import FACTS, MetricRow, RunRow
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store
from torchstone.train.config import SECTIONS

SEED = "train.random_seed"
COVERED = frozenset(
    {SEED, "train.batch_size", "train.gradient_accumulation_steps"}
    | {key for key, knob in knobs_of(SECTIONS).items() if not knob.changes_result}
)
"""Keys that a fact speaks for, or that change no bit of what a run computes."""
_CLOCK = "train.max_time_s = "
BOOKKEEPING = ("tracking.", "train.checkpoint_every")


def find_runs(store: Store, wanted: Sequence[tuple[str, str]]) -> list[RunRow]:
    """Training runs that carry all of this, oldest first; none is a UsageError."""
    marked = marks(store)
    runs = [run for run in store.runs(kind="train") if _has(run, marked[run.run_id], wanted)]
    if runs:
        return runs[::-1]
    said = ",".join(f"{key}={value}" for key, value in wanted)
    tags = sorted({tag for each in marked.values() for tag in each.tags})
    why = next((suggest(value, tags) for key, value in wanted if key == "tag" and value not in tags), "")
    raise UsageError(
        f"no run has {said}",
        where=store.where,
        why=why or (f"tags in this store: {', '.join(tags)}" if tags else "no run in this store has a tag"),
        next="torchstone runs tag RUN TAG, or train with --set tracking.tags=TAG",
    )


def find_run(store: Store, name: str) -> RunRow:
    """A run by its id, the unique beginning of one, or its folder."""
    if Path(name).is_dir():
        name = RunFolder.open(name).run_id
    return store.run(name)


def _has(run: RunRow, marked: Marks, wanted: Sequence[tuple[str, str]]) -> bool:
    config = flat_config(run.config)
    for key, value in wanted:
        if key == "tag":
            holds = value in marked.tags
        elif key == "name":
            holds = run.name == value
        elif key in ("id", "run_id"):
            holds = run.run_id == value
        elif "." in key:
            holds = key in config and str(config[key]) == value
        else:
            raise UsageError(
                f"runs are not found by {key!r}", next="use tag, name, id or a configuration key with a dot"
            )
        if not holds:
            return False
    return True


def read_run(store: Store, run: RunRow, reading: Reading) -> RecordedRun:
    """All that the store knows of a run."""
    config = {key: _plain(value) for key, value in flat_config(run.config).items()}
    row, derived = _metric(store, run.run_id, reading)
    summary = run.summary
    sessions = [event.data for event in store.events(run.run_id) if event.kind == FACTS]
    found: dict[str, list[Statement]] = {}
    whole = {
        "metric_step": row.step if row else None,
        "status": live_status(run),
        "seed": config.get(SEED),
        "steps": summary.get("steps"),
        "tokens": summary.get("tokens"),
        "seconds": summary.get("seconds"),
        "stop_rule": _stop_rule(config, summary),
        "invalid": marks(store, [run.run_id])[run.run_id].invalid,
    }
    value = {"value": row.value if row else None}
    for name, stated in (states(value, derived or "the store") | states(whole, "the store")).items():
        found[name] = list(stated)
    for number, session in enumerate(sessions, 1):
        where = f"session {number}" if len(sessions) > 1 else "the store"
        for name, stated in states(_session(session), where).items():
            found.setdefault(name, []).extend(stated)
    covered = {key for key in config if key in COVERED or key.startswith(BOOKKEEPING)}
    return RecordedRun(
        run_id=run.run_id,
        origin="store",
        where=store.where,
        statements={name: tuple(stated) for name, stated in found.items()},
        config=config,
        covered=frozenset(covered),
    )


def _metric(store: Store, run_id: str, reading: Reading) -> tuple[MetricRow | None, str]:
    """The row of the metric, and how it was derived where the store holds it under another name."""

    def row(key: str) -> MetricRow | None:
        if reading.at == "best":
            return store.best(run_id, key, "min" if reading.direction == "lower" else "max")
        return store.last_values([run_id])[run_id].get(key)

    found = row(reading.metric)
    if found is not None or reading.loss is None:
        return found, ""
    found = row(reading.loss)
    if found is None:
        return None, ""
    return found._replace(value=perplexity(found.value)), f"exp of {reading.loss}"


def _session(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that one session of a run recorded."""
    git, environment = facts.get("git"), facts["environment"]
    torch, data, batch = environment["torch"], facts["data"], facts["batch"]
    return {
        "commit": git["commit"] if git else None,
        "clean": not (git["dirty"] or git["untracked_code"]) if git and "untracked_code" in git else None,
        "model": facts["model"]["fingerprint"],
        "data": data.get("train"),
        "evaluation": data.get("validation"),
        "hardware": _hardware(facts["hardware"]),
        "software": f"torchstone {environment['torchstone']}"
        f" ({environment.get('torchstone_sources', 'sources not recorded')[:12]}), "
        f"torch {torch['version']}, Python {environment['python']}",
        "compile_status": _compile_status(facts),
        "effective_batch": batch["effective"],
        "planned_steps": facts["planned_steps"],
    }


def _hardware(hardware: Mapping[str, Any]) -> str:
    threads = f", {hardware['threads']} threads" if hardware["device"] == "cpu" else ""
    return f"{hardware['processes']} x {hardware['name']}{threads}"


def _compile_status(facts: Mapping[str, Any]) -> str:
    mode, levers = facts["compile"]["mode"], facts["levers"] or {}
    idle = (False, None, "chosen by torch")
    used = [f"{name}={value}" for name, value in sorted(levers.items()) if value not in idle]
    return "; ".join(["not compiled" if mode == "none" else f"compiled ({mode})", *used])


def _stop_rule(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str | None:
    reason = summary.get("reason")
    if str(reason).startswith(_CLOCK):
        return f"{THE_CLOCK}: {str(reason).removeprefix(_CLOCK)} s"
    if reason != "all steps done":
        return reason
    return "steps" if config.get("train.max_steps") is not None else "epochs"


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
