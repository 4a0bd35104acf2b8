"""A bad step kept so that it can be taken again: its batches, generators and weights.

    incidents/step-41/incident.json          what happened, which model, task and precision
                      batch.safetensors      the micro-batches and the generators of torch
                      model.safetensors      the weights the step began with

`replay` takes the step again on the CPU, forward and backward, and says whether the same module breaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone._errors import ModelError, UsageError
from torchstone._files import read_json, write_json
from torchstone.train.losses import LOSSES, SpecialIds
from torchstone.train.nonfinite import NonFinite, find_origin
from torchstone.train.objective import ModelObjective, Prepared
from torchstone.train.precision import autocast_of

if TYPE_CHECKING:
    from torchstone.train.loop_parts import Taken

SCHEMA = "torchstone.incident/1"
FOLDER = "incidents"
RECORD, BATCH, WEIGHTS = "incident.json", "batch.safetensors", "model.safetensors"
_RNG = "rng/"


def keep_incident(
    run_dir: Path,
    taken: Taken,
    error: NonFinite,
    *,
    module: nn.Module,
    model: dict[str, Any],
    task: str,
    ids: SpecialIds,
    num_outputs: int | None,
    precision: str,
    seed: int,
) -> None:
    """Write the folder of one incident, incident.json last; one that is there already stays."""
    from safetensors.torch import save_file, save_model

    folder = run_dir / FOLDER / f"step-{taken.step}"
    if (folder / RECORD).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_RNG}{name}": state for name, state in taken.rng.items()} | _flat(taken.window)
    save_file({name: each.detach().cpu().contiguous() for name, each in tensors.items()}, folder / BATCH)
    save_model(module, str(folder / WEIGHTS))
    record = {
        "schema": SCHEMA,
        "step": taken.step,
        "what": error.what,
        "where": error.where,
        "why": error.why,
        "targets": [batch.targets for batch in taken.window],
        "learning_rate": taken.learning_rate,
        "model": model,
        "task": task,
        "ids": asdict(ids),
        "num_outputs": num_outputs,
        "precision": precision,
        "seed": seed,
    }
    write_json(folder / RECORD, record)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of taking the step again."""

    step: int
    recorded: str
    """What the training said."""
    module: str | None
    """The module that breaks now."""
    direction: str | None
    parameter: str | None
    """The first parameter whose gradient is not finite."""
    losses: list[float]
    """Mean loss of each micro-batch."""

    @property
    def reproduced(self) -> bool:
        return (
            self.module is not None or self.parameter is not None or not all(map(math.isfinite, self.losses))
        )

    def to_dict(self) -> dict[str, Any]:
        return {"schema": "torchstone.replay/1", **asdict(self), "reproduced": self.reproduced}


def replay(path: str | Path, *, module: nn.Module | None = None, trust: bool | None = None) -> Replay:
    """Take the step of an incident (its folder or incident.json) again on the CPU.

    `module` is the model where it was built in Python and no target names it.
    """
    from safetensors.torch import load_file, load_model

    folder, record = _read(Path(path))
    module, forward = _model(record, module, trust)
    load_model(module, str(folder / WEIGHTS))
    module.train()
    rule = LOSSES.get(record["task"])
    objective = ModelObjective(forward, rule, SpecialIds(**record["ids"]), "cpu", record["num_outputs"])
    tensors = load_file(folder / BATCH)
    window = _window(tensors, record["targets"])
    rng = {name.removeprefix(_RNG): each for name, each in tensors.items() if name.startswith(_RNG)}
    autocast = autocast_of(record["precision"], torch.device("cpu"))
    origin, parameter = find_origin(module, objective, window, rng, autocast)
    losses = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.set_rng_state(rng["torch"])
        for batch in window:
            with autocast():
                losses.append(float(objective.loss_sum(batch)) / max(batch.targets, 1))
    return Replay(
        step=record["step"],
        recorded=f"{record['what']} ({record['where']})",
        module=origin.module if origin else None,
        direction=origin.direction if origin else None,
        parameter=parameter,
        losses=losses,
    )


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    folder = path.parent if path.name == RECORD else path
    if not (folder / RECORD).is_file():
        raise UsageError(
            f"there is no incident in {path}",
            next="name a folder runs/<run>/incidents/step-N or its incident.json",
        )
    record = read_json(folder / RECORD)
    if record.get("schema") != SCHEMA:
        raise UsageError(f"{folder} holds no incident", why=f"its schema is {record.get('schema')!r}")
    return folder, record


def _model(record: dict[str, Any], module: nn.Module | None, trust: bool | None) -> tuple[nn.Module, Any]:
    from torchstone.adapt.load import load

    origin = record["model"]
    if module is None and not origin.get("target"):
        raise ModelError(
            "the incident does not say how its model is built",
            why="it was a module built in Python",
            next="torchstone.train.incident.replay(path, module=...)",
        )
    loaded = load(
        module if module is not None else origin["target"],
        task=record["task"],
        trust=trust,
        overrides=None if module is not None else origin.get("overrides"),
        seed=record["seed"],
    )
    return loaded.module, loaded.adapter


def _flat(window: Sequence[Prepared]) -> dict[str, Tensor]:
    flat = {}
    for number, batch in enumerate(window):
        for part, entries in (("inputs", batch.inputs), ("labels", batch.labels)):
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    flat[f"{number}/{part}/{name}"] = value.clone()
    return flat


def _window(tensors: dict[str, Tensor], targets: list[int]) -> list[Prepared]:
    window = [Prepared({}, {}, count) for count in targets]
    for key, value in tensors.items():
        if key.startswith(_RNG):
            continue
        number, part, name = key.split("/", 2)
        entries = window[int(number)].inputs if part == "inputs" else window[int(number)].labels
        entries[name] = value
    return window
