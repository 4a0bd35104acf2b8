"""Low-rank adapters: the base stays as it is, and two thin matrices beside each chosen layer are trained.

    record = insert_lora(module, LoraSpec(rank=8), vocab_size=...)    # in place; the base is frozen
    save_adapter(module, folder, base="hf:NAME")                      # in the format of the peft library

The layers are those of `peft` (extra [peft]). The module keeps its class, its forward and its names, so every
other part of the house works as before. Hu et al. 2021, LoRA, arXiv:2106.09685.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import ModelError
from torchstone._optional import require
from torchstone._registry import suggest
from torchstone.tracking.partial import BASE, KEPT, base_hash

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "adapter"
"""Folder in the run that holds the trained adapter in peft's own format."""


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """What makes the adapters; kept in each checkpoint."""

    rank: int
    alpha: float
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Names of layers, or ends of names; none: every linear layer except the output head."""
    seed: int = 0
    """Of the base's own weights, where they are drawn and not read, and of the adapters."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"targets": list(self.targets)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> LoraSpec:
        return cls(**record | {"targets": tuple(record["targets"])})


def insert_lora(module: nn.Module, spec: LoraSpec, output_sizes: tuple[int, ...] = ()) -> dict[str, Any]:
    """Adapters into `module`; what its checkpoints record: spec, names that are kept, hash of the base.

    `output_sizes` (vocabulary, classes) tell the output head from the other layers.
    """
    from torchstone._seeds import preserved_rng

    peft = require("peft", "peft")
    if getattr(module, "peft_config", None):
        raise ModelError(
            "the model carries adapters already",
            next="train on the base model, or load it anew",
        )
    linear = linear_layers(module)
    names = _wanted(linear, spec.targets) if spec.targets else _body(module, linear, output_sizes)
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=names,
        fan_in_fan_out=all(type(linear[name]).__name__ == "Conv1D" for name in names),
    )
    with preserved_rng(spec.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # each layer of a mixed model is told which way it lies
        modes = {name: linear[name].training for name in names}
        peft.inject_adapter_in_model(config, module)
        for name, training in modes.items():
            module.get_submodule(name).train(training)
    _require_some(module)
    trained = {name for name, each in module.named_parameters() if each.requires_grad}
    frozen = {name for name, _ in module.named_parameters(remove_duplicate=False)} - trained
    # Buffers count as state: running statistics move even where every weight stands still.
    kept = [name for name in module.state_dict() if name not in frozen]
    return {"lora": spec.to_dict(), KEPT: kept, BASE: base_hash(module, kept)}


def linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every layer that adapters can stand beside, by name; Conv1D is one of transformers, transposed."""
    from torch import nn

    # What torch's own attention calls so is never called: it reads the weight and passes adapters by.
    passed_by = nn.modules.linear.NonDynamicallyQuantizableLinear
    return {
        name: each
        for name, each in module.named_modules()
        if name
        and (isinstance(each, nn.Linear) or type(each).__name__ == "Conv1D")
        and not isinstance(each, passed_by)
    }


def num_parameters(module: nn.Module) -> tuple[int, int]:
    """(trainable, all)."""
    sizes = [(each.numel(), each.requires_grad) for each in module.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


def save_adapter(module: nn.Module, folder: Path, base: str | None = None) -> None:
    """`adapter_config.json` and `adapter_model.safetensors`, for `peft.PeftModel.from_pretrained`."""
    from safetensors.torch import save_file

    peft = require("peft", "peft")
    config: Any = module.peft_config["default"]  # type: ignore[index]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = peft.get_peft_model_state_dict(module, save_embedding_layers=False)
    save_file(
        {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    dataclasses.replace(config, inference_mode=True, base_model_name_or_path=base).save_pretrained(
        str(folder)
    )


def _wanted(linear: dict[str, nn.Module], targets: tuple[str, ...]) -> list[str]:
    chosen = []
    for target in targets:
        found = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise ModelError(
                f"no linear layer is called {target}",
                why=suggest(target, [*ends, *linear]),
                next=f"train.lora_targets of this model: {', '.join(ends) or 'it has none'}",
            )
        chosen += found
    return sorted(set(chosen), key=list(linear).index)


def _body(module: nn.Module, linear: dict[str, nn.Module], output_sizes: tuple[int, ...]) -> list[str]:
    """All but the head: its weight is the embedding's, or it gives logits."""
    from torch import nn

    tables = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    names = [
        name
        for name, each in linear.items()
        if id(each.weight) not in tables and getattr(each, "out_features", None) not in output_sizes
    ]
    if not names:
        raise ModelError(
            "LoRA finds no layer to stand beside",
            why=f"{type(module).__name__} has no linear layer apart from its head",
            next="name one with train.lora_targets, or train all weights: --set train.lora_rank=0",
        )
    return names


def _require_some(module: nn.Module) -> None:
    trainable, total = num_parameters(module)
    if 0 < trainable < total:
        return
    raise ModelError(
        f"{'none' if not trainable else 'all'} of the {total:,} parameters would be trained",
        why="adapters train a part of a model and leave its base as it is",
        next="check train.lora_targets, or train all weights: --set train.lora_rank=0",
    )
