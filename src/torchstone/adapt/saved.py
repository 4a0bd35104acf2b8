"""A model that was trained here: the target its checkpoint names, built again, with the saved weights.

A checkpoint holds no code. If the code came from a stranger, it is asked for again and trusted no more than
the first time; if it changed since, that is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchstone._errors import ModelError, UsageError
from torchstone.adapt.target import Target

if TYPE_CHECKING:
    from torchstone.adapt.load import LoadedModel
    from torchstone.tracking.checkpoint import Checkpoint


def load_saved(target: Target, *, trust: bool | None, task: Any, seed: int) -> LoadedModel:
    """The model of a run or checkpoint folder with its weights."""
    from torchstone.adapt.facts import facts_of_config
    from torchstone.adapt.load import load
    from torchstone.adapt.lora import LoraSpec, insert_lora

    checkpoint = checkpoint_of(target)
    record = checkpoint.model
    if not record.get("target"):
        raise ModelError(
            f"{checkpoint.path.name} does not say which model it belongs to",
            where=str(checkpoint.path),
            why="it was written for a module that was built in Python",
            next="build the module and load model.safetensors into it",
        )
    lora = LoraSpec.from_dict(record["lora"]) if record.get("lora") else None
    model = load(
        record["target"],
        task=task if task is not None else record.get("task"),
        trust=trust,
        overrides=record.get("overrides"),
        seed=seed if lora is None else lora.seed,
    )
    if lora is not None:
        insert_lora(model.module, lora, facts_of_config(model.module, model.config).output_sizes)
    _fill(model, checkpoint)
    if record.get("fingerprint") not in (None, model.fingerprint):
        model.notes.append(
            f"the model's code or configuration changed since {checkpoint.path.name} was written"
        )
    model.notes.insert(0, f"weights of {checkpoint.path.name} in {checkpoint.path.parent.parent}")
    model.target = target.text
    return model


def checkpoint_of(target: Target) -> Checkpoint:
    """The checkpoint named; of a run, its best one, else the newest that is whole."""
    from torchstone.tracking.checkpoint import newest_good, open_checkpoint

    if target.kind == "checkpoint":
        return open_checkpoint(target.path)
    pointer = target.path / "best"
    if pointer.is_file():
        best = target.path / "checkpoints" / pointer.read_text().strip()
        if best.is_dir():
            return open_checkpoint(best)
    newest = newest_good(target.path / "checkpoints", move_bad=False)
    if newest is None:
        raise UsageError(
            f"the run {target.text} has no checkpoint that can be used",
            where=str(target.path / "checkpoints"),
            next="train it for at least one checkpoint, or name another run",
        )
    return newest


def _fill(model: LoadedModel, checkpoint: Checkpoint) -> None:
    from torchstone.tracking.buffers import restore_buffers
    from torchstone.tracking.partial import KEPT, require_base

    state = checkpoint.state()
    tensors: dict[str, Any] = {**checkpoint.tensors(), **(state.get("model_extra") or {})}
    # Where averages of the weights were kept, they are what was validated.
    averages = state.get("extra", {}).get("average", {})
    tied = checkpoint.manifest.get("tied", {})
    tensors |= averages | {name: averages[kept] for name, kept in tied.items() if kept in averages}
    require_base(model.module, checkpoint)
    try:
        model.module.load_state_dict(tensors, strict=checkpoint.model.get(KEPT) is None)
    except RuntimeError as misfit:
        lines = str(misfit).splitlines()
        raise ModelError(
            f"the weights of {checkpoint.path.name} do not fit the model",
            where=str(checkpoint.path),
            why="; ".join(line.strip() for line in lines[1:4]),
            next=f"{checkpoint.model['target']} is no longer what was trained; bring that back",
        ) from None
    restore_buffers(model.module, state.get("buffers") or {})
    averaged = (state.get("extra") or {}).get("average")
    if averaged:
        # What training validated and saved at its end, where it kept averages.
        parameters = dict(model.module.named_parameters())
        for name, value in averaged.items():
            parameters[name].data.copy_(value)
        model.notes.append("its weights are the averages that train.ema_decay kept")
