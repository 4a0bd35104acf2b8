"""Train a model: what `torchstone train` does, resumed wherever a worker was killed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import UsageError
from torchstone.study.kinds.record import Ended, JobKind, Order, require_keys

if TYPE_CHECKING:
    from torchstone.config.resolve import Resolved
    from torchstone.tracking.store import Store

FLAGS = {
    "target": "model.target",
    "data": "data.source",
    "task": "data.task",
    "tokenizer": "data.tokenizer",
    "name": "tracking.run_name",
    "max_steps": "train.max_steps",
}
FAMILIAR = ("model_path", "task_spec", "training_config")
KEYS = (*FLAGS, "defconfig", "config", "set", "run_dir", "trust", "device", *FAMILIAR)


def prepare(config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    require_keys(config, KEYS)
    if not any(config.get(each) for each in ("target", "model_path", "defconfig", "config")):
        raise UsageError("which model is to be trained?", next='{"target": "zoo:gpt-nano", ...}')
    settings = settings_of(config)
    order = {"settings": settings.to_json(), "trust": config.get("trust"), "device": config.get("device")}
    if config.get("run_dir"):
        order["run_dir"] = str(Path(config["run_dir"]).absolute())
    return order


def settings_of(config: Mapping[str, Any]) -> Resolved:
    """Knobs by the same names and layers as on the command line; the familiar keys beside them."""
    from torchstone.config.resolve import resolve
    from torchstone.study.config import SECTIONS as ALL
    from torchstone.train.config import SECTIONS, TrainingConfig

    flags = {key: config.get(name) for name, key in FLAGS.items()}
    flags["model.target"] = flags["model.target"] or config.get("model_path")
    flags["data.task"] = flags["data.task"] or _task_of(config.get("task_spec"))
    told = {**(config.get("set") or {}), **{key: each for key, each in flags.items() if each is not None}}
    if config.get("training_config"):
        if config.get("defconfig") or config.get("config"):
            raise UsageError(
                "training_config says all knobs, and so does a defconfig or file", next="give one"
            )
        whole = TrainingConfig.from_dict(config["training_config"]).resolved()
        return whole.select(SECTIONS).with_values(told, "job")
    overrides = [(key, _text(value)) for key, value in told.items()]
    found = resolve(
        ALL,
        defconfig=config.get("defconfig"),
        file=config.get("config"),
        overrides=overrides,
        environ=os.environ,
    )
    return found.select(SECTIONS)


def _task_of(spec: Any) -> Any:
    """The name of a task, given by it or as a dictionary."""
    if isinstance(spec, Mapping):
        return spec.get("kind") or spec.get("task_type") or spec.get("name")
    return spec


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def run(order: Order) -> Ended:
    import logging

    from torchstone.config.resolve import Resolved
    from torchstone.study.cell_job import Diary
    from torchstone.train.config import SECTIONS
    from torchstone.train.run import TrainJob
    from torchstone.train.run import run as train

    settings = Resolved.from_json(SECTIONS, order["settings"])
    job = TrainJob(
        settings, run_dir=order["run_dir"], resume="auto", trust=order.get("trust"),
        device=order.get("device"), hooks=(Diary(),),
    )  # fmt: skip
    result = train(job)
    logging.getLogger(__name__).info("%s: step %d, %s", result.status, result.steps, result.final)
    return Ended(result.status, result.exit_code, result.to_dict())


KIND = JobKind("training", "train a model, as `torchstone train` does", KEYS, prepare, run)
