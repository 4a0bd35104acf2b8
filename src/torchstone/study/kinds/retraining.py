"""Train a registered model again, compare the two on the same held-out data, and register the new one.

The recipe is that of the run which trained the model; `data` and `set` say what is new. The new version has
the old one as its parent and the tag `candidate`. Nothing is promoted: that is for people to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import UsageError
from torchstone._files import read_json
from torchstone.study.kinds import training
from torchstone.study.kinds.record import Ended, JobKind, Order, require_keys

if TYPE_CHECKING:
    from torchstone.config.resolve import Resolved
    from torchstone.tracking.registered_model import RegisteredModel
    from torchstone.tracking.store import Store

KEYS = ("model", "data", "set", "start", "tag", "reason", "watched", "trust", "device")
STARTS = ("scratch", "weights")
CANDIDATE = "candidate"


def prepare(config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    require_keys(config, KEYS, needed=("model",))
    start = config.get("start") or STARTS[0]
    if start not in STARTS:
        raise UsageError(f"start {start!r} is neither scratch nor weights", next='"start": "scratch"')
    from torchstone.tracking.model_registry import ModelRegistry

    model = ModelRegistry(store).find(config["model"])
    order = {"model_id": model.model_id, "model": model.label, "settings": _recipe(model, config).to_json()}
    return order | {name: config[name] for name in ("tag", "reason", "trust", "device") if config.get(name)}


def _recipe(model: RegisteredModel, config: Mapping[str, Any]) -> Resolved:
    """The settings of the run that trained the model, with what is new."""
    from torchstone.config.layers import BACK_TO_DEFAULT
    from torchstone.config.resolve import Resolved
    from torchstone.tracking.register_run import home_of_model
    from torchstone.train.config import SECTIONS

    home = home_of_model(model.checkpoint_path)
    if home is None:
        raise UsageError(
            f"how was {model.label} trained?", where=model.checkpoint_path,
            why="it lies in no run folder, which would have the recipe", next="submit a training job",
        )  # fmt: skip
    settings = Resolved.from_json(SECTIONS, read_json(home / "config.json"))
    changes = dict(config.get("set") or {})
    if config.get("data"):
        changes["data.source"] = config["data"]
    if config.get("start") == "weights":  # a trained model brings its own sizes
        changes |= dict.fromkeys(
            (key for key in settings.values() if key.startswith("model.")), BACK_TO_DEFAULT
        )
        changes["model.target"] = model.checkpoint_path
    return settings.with_values(changes, "retraining")


def run(order: Order) -> Ended:
    from torchstone.tracking.checkpoint import open_checkpoint
    from torchstone.tracking.model_registry import ModelRegistry
    from torchstone.tracking.register_run import register_checkpoint
    from torchstone.tracking.store import Store as Opened

    trained = training.run(order)
    if trained.status != "completed":
        return trained
    with Opened.open(order.get("store")) as store:
        registry = ModelRegistry(store)
        deployed = registry.find(str(order["model_id"]))
        best = Path(trained.record["best"]["checkpoint"] or trained.record["checkpoint"])
        comparison = _compared(deployed.checkpoint_path, order["run_dir"], order)
        # A worker that was killed may have got as far as this.
        known = [each for each in registry.list_models(status=None, limit=10**9)
                 if each.training_run_id == trained.record["run_id"]]  # fmt: skip
        model_id = known[0].model_id if known else register_checkpoint(
            registry, open_checkpoint(best), deployed.name, parent_model_id=deployed.model_id,
            metadata={"reason": order.get("reason"), "comparison": comparison},
            tags=[order.get("tag") or CANDIDATE],
        )  # fmt: skip
        new = registry.find(str(model_id))
    record = {
        "model": new.label,
        "model_id": model_id,
        "parent": deployed.label,
        "run_id": new.training_run_id,
        "comparison": comparison,
        "reason": order.get("reason"),
        "train": trained.record,
    }
    return Ended("completed", 0, record)


def _compared(deployed: str, run_dir: str, order: Order) -> dict[str, dict[str, float]]:
    """Both models on the new run's held-out data: {"metric": {"baseline", "candidate", "delta"}}."""
    from torchstone.config.resolve import Resolved
    from torchstone.train.config import SECTIONS
    from torchstone.train.evaluate import EvalJob
    from torchstone.train.evaluate import run as evaluate

    data = Resolved.from_json(SECTIONS, read_json(Path(run_dir) / "config.json")).data.source
    new = evaluate(EvalJob(target=run_dir, trust=order.get("trust"))).metrics
    old = evaluate(EvalJob(target=deployed, data=data, split="val", trust=order.get("trust"))).metrics
    return {
        name: {"baseline": old[name], "candidate": new[name], "delta": new[name] - old[name]}
        for name in new
        if name in old
    }


KIND = JobKind(
    "retraining", "train a registered model again and register what came of it", KEYS, prepare, run
)
