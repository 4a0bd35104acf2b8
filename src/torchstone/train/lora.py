"""Low-rank adapters in a training job: put in before the model is adapted, saved for others when it ends."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from torchstone.adapt.facts import facts_of_config
from torchstone.adapt.load import LoadedModel
from torchstone.adapt.lora import ADAPTER, LoraSpec, insert_lora, num_parameters, save_adapter
from torchstone.config.resolve import Resolved
from torchstone.train.hooks import EndInfo, StartInfo

log = logging.getLogger(__name__)


def with_lora(loaded: LoadedModel, config: Resolved) -> tuple[LoadedModel, dict[str, Any]]:
    """The model with the adapters that `train.lora_*` asks for, and what its checkpoints record of them."""
    loop = config.train
    if loop.lora_rank == 0:
        return loaded, {}
    spec = LoraSpec(
        rank=loop.lora_rank,
        alpha=loop.lora_alpha,
        dropout=loop.lora_dropout,
        targets=tuple(loop.lora_targets),
        seed=loop.random_seed,
    )
    record = insert_lora(loaded.module, spec, facts_of_config(loaded.module, loaded.config).output_sizes)
    trainable, total = num_parameters(loaded.module)
    share = f"LoRA of rank {spec.rank}: {trainable:,} of {total:,} parameters are trained"
    # Whatever was read from the model before is read anew: its layers are others now.
    return dataclasses.replace(loaded, notes=[*loaded.notes, share]), record


class AdapterKeeper:
    """Writes the trained adapter in peft's own format when a run is complete."""

    def __init__(self, module: Any, record: dict[str, Any]) -> None:
        self.module = module
        self.base = str(record["target"]).removeprefix("hf:") if record.get("target") else None
        self.run_dir: Path | None = None

    def on_start(self, info: StartInfo) -> None:
        self.run_dir = info.run_dir

    def on_end(self, info: EndInfo) -> None:
        if info.status != "completed" or self.run_dir is None:
            return
        try:
            save_adapter(self.module, self.run_dir / ADAPTER, self.base)
        except OSError as error:  # the checkpoints hold it too; a finished run does not die of a copy
            log.warning("no %s/ for other tools: %s", ADAPTER, error)
