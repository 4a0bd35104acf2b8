"""Look after a deployed model: has what it is asked drifted, is it still as good, must it be trained again?

The data of the last days are compared with the reference (a saved profile, or the model's own training data),
the model is scored on them, and rules of retraining are asked. Where one fires, a retraining job is put in
the queue, unless one for this model is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._files import read_json
from torchstone.study.kinds.record import Ended, JobKind, Order, require_keys

if TYPE_CHECKING:
    from torchstone.drift.profile import Profile
    from torchstone.drift.triggers import RetrainingReport
    from torchstone.tracking.registered_model import RegisteredModel
    from torchstone.tracking.store import Store

KEYS = (
    "model", "data", "reference", "task", "tokenizer", "rows", "false_alarm_rate", "preset", "evaluate",
    "retrain", "trust",
)  # fmt: skip
ROWS = 10_000


def prepare(config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    from torchstone.drift.triggers import preset
    from torchstone.tracking.model_registry import ModelRegistry

    require_keys(config, KEYS, needed=("model", "data"))
    preset(config.get("preset") or "balanced")
    model = ModelRegistry(store).find(config["model"])
    return {"model_id": model.model_id, "reference": config.get("reference") or _own_data(model)}


def _own_data(model: RegisteredModel) -> str:
    from torchstone._errors import UsageError
    from torchstone.tracking.register_run import home_of_model

    home = home_of_model(model.checkpoint_path)
    if home is None:
        raise UsageError(f"what are the data of {model.label} to be compared with?",
                         next='{"reference": "training-data.npz"}')  # fmt: skip
    return str(read_json(home / "config.json")["values"]["data.source"]["value"])


def run(order: Order) -> Ended:
    from torchstone.drift.drift_record import drift_record
    from torchstone.drift.monitor import FALSE_ALARM_RATE
    from torchstone.drift.verdict import compare
    from torchstone.study.job_queue import JobManager
    from torchstone.tracking.model_registry import ModelRegistry
    from torchstone.tracking.store import Store as Opened

    config = order["config"]
    with Opened.open(order["store"]) as store:
        model = ModelRegistry(store).find(str(order["model_id"]))
        reference, new = (_profile(each, model, config) for each in (order["reference"], config["data"]))
        rate = float(config.get("false_alarm_rate") or FALSE_ALARM_RATE)
        drift = drift_record(compare(reference, new, false_alarm_rate=rate), reference, new)
        scored = _scored(model, config) if config.get("evaluate", True) else {}
        report = _report(model, drift, scored, config)
        told = _record(model, drift, scored)
        told["retraining"] = report.to_dict()
        told["job_id"] = _retrain(JobManager(store), model, report, config)
        told["run_id"] = _keep(store, model, told, order)
    return Ended("completed", 0, told)


def _profile(source: str, model: RegisteredModel, config: Mapping[str, Any]) -> Profile:
    """By the tokens of the model itself, unless another tokenizer is named."""
    from torchstone.adapt.tokenizer_of import find_tokenizer
    from torchstone.checks.data_profile import profile_source
    from torchstone.data.config import DataConfig

    tokenizer = find_tokenizer(model.checkpoint_path, config.get("tokenizer"))
    return profile_source(
        source, DataConfig(), task=config.get("task"), rows=_rows(config), tokenizer=tokenizer
    )


def _rows(config: Mapping[str, Any]) -> int:
    return int(config.get("rows") or ROWS)


def _scored(model: RegisteredModel, config: Mapping[str, Any]) -> dict[str, float]:
    """The model on the new data, by the names that its validation used."""
    from torchstone.train.evaluate import EvalJob
    from torchstone.train.evaluate import run as evaluate

    target, rows = model.checkpoint_path, _rows(config)
    job = EvalJob(
        target=target, data=config["data"], split="all", max_samples=rows, trust=config.get("trust")
    )
    return {f"val/{name}": value for name, value in evaluate(job).metrics.items()}


def _report(
    model: RegisteredModel, drift: Mapping[str, Any], scored: Mapping[str, float], config: Mapping[str, Any]
) -> RetrainingReport:
    from datetime import datetime

    from torchstone.drift.monitor import calibrated
    from torchstone.drift.triggers import Situation, evaluate, preset

    situation = Situation(
        drift={"js_divergence": drift["js_divergence"], "alarm": drift["alarm"]},
        metrics=_familiar(scored),
        baseline=_familiar(model.metrics),
        last_training=datetime.fromisoformat(model.created_at),
    )
    return evaluate(calibrated(preset(config.get("preset") or "balanced")), situation)


def _familiar(metrics: Mapping[str, float]) -> dict[str, float]:
    """`val/loss` as `val_loss`, which rules ask for."""
    return {name.replace("/", "_"): value for name, value in metrics.items()}


def _record(model: RegisteredModel, drift: Mapping[str, Any], scored: Mapping[str, float]) -> dict[str, Any]:
    """The familiar keys: eval_metrics, comparison, drift, status."""
    metrics = {
        name: {"baseline": model.metrics[name], "candidate": value, "delta": value - model.metrics[name]}
        for name, value in scored.items()
        if name in model.metrics
    }
    status = {"healthy": "ok", "warning": "warn", "critical": "fail"}[drift["status"]]
    return {
        "model": model.label,
        "eval_metrics": dict(scored),
        "comparison": {"metrics": metrics} if metrics else None,
        "drift": dict(drift),
        "status": status,
    }


def _retrain(
    queue: Any, model: RegisteredModel, report: RetrainingReport, config: Mapping[str, Any]
) -> int | None:
    """The number of the retraining job that was entered; None: nothing asked for one, or one is there."""
    from torchstone.study.job_queue import RUNNING

    wish = config.get("retrain", {})
    if not report.triggered or wish is False:
        return None
    for status in ("waiting", RUNNING):
        for job in queue.list_jobs(status, "retraining", limit=10**9):
            if job.config.get("watched") == model.label:
                return None
    told = {
        "data": config["data"],
        "start": "weights",
        **(wish if isinstance(wish, Mapping) else {}),
        "model": str(model.model_id),
        "watched": model.label,
        "reason": "; ".join(report.recommendations),
    }
    return int(queue.submit_job("retraining", told))


def _keep(store: Store, model: RegisteredModel, told: Mapping[str, Any], order: Order) -> str:
    """A run of kind `monitor` with the numbers, and an event of the run that trained the model."""
    from torchstone.tracking.rows import DRIFT, MetricRow
    from torchstone.tracking.run_folder import new_run_id

    name = f"tier5_validation_{model.task_type}"
    run_id = f"{new_run_id(name)}-job"
    store.start_run(
        run_id, name=name, kind="monitor", run_dir=Path(order["run_dir"]), config={"model": model.label}
    )
    rows = [
        MetricRow(f"eval/{key.removeprefix('val/')}", 0, value) for key, value in told["eval_metrics"].items()
    ]
    rows += [MetricRow(f"drift/{key}", 0, value) for key, value in told["drift"]["details"].items()]
    rows.append(MetricRow("drift/js_divergence", 0, told["drift"]["js_divergence"]))
    store.log_rows(run_id, rows)
    store.add_event(run_id, DRIFT, told["drift"])
    store.finish_run(run_id, "completed", {"status": told["status"], "job_id": told["job_id"]})
    if model.training_run_id and any(run.run_id == model.training_run_id for run in store.runs()):
        store.add_event(model.training_run_id, DRIFT, told["drift"])
    return run_id


KIND = JobKind(
    "monitoring", "compare a model's new data with its old; queue a retraining if rules ask for one", KEYS,
    prepare, run,
)  # fmt: skip
