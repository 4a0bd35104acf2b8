"""`TrainingConfig`: the flat face of the configuration for Python users. No torch here.

    config = TrainingConfig(learning_rate=3e-4, batch_size=8, epochs=2)
    config.validate()          # True, or one ConfigError that lists everything that is wrong

It describes nothing itself: each field names the section key it stands for, and default, range and help
live there. A field without a key is known from older systems and has no effect in this version; whoever
sets one is told so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import ConfigError, UsageError
from torchstone._files import read_json, write_json
from torchstone._registry import suggest
from torchstone.train.config import SECTIONS

if TYPE_CHECKING:
    from torchstone.config.resolve import Resolved

PRECISIONS = {
    "fp32": "fp32",
    "32": "fp32",
    "32-true": "fp32",
    "tf32": "tf32",
    "bf16": "bf16",
    "bf16-mixed": "bf16",
    "fp16": "fp16",
    "16": "fp16",
    "16-mixed": "fp16",
    "auto": "auto",
}

STRATEGIES = {"fsdp_native": "fsdp"}


def _key(key: str, *, fallback: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field that stands for a section key and has its default. `fallback`: only where the key is unset."""
    if default is dataclasses.MISSING:
        section, _, name = key.partition(".")
        default = SECTIONS[section].model_fields[name].default
    return dataclasses.field(default=default, metadata={"key": key, "fallback": fallback})


def _no_effect(default: Any, why: str) -> Any:
    return dataclasses.field(default=default, metadata={"why": why})


def _label(default: Any = None) -> Any:
    return dataclasses.field(default=default, metadata={})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All knobs of a training run in one flat record; see the sections for units and ranges."""

    # Reproducibility
    random_seed: int = _key("train.random_seed")
    deterministic: bool = _key("train.deterministic")
    # Hyper-parameters
    learning_rate: float = _key("optim.learning_rate")
    batch_size: int = _key("train.batch_size")
    epochs: int = _key("train.epochs")
    max_steps: int | None = _key("train.max_steps")
    max_time_s: float | None = _key("train.max_time_s")
    warmup_ratio: float = _key("optim.warmup_ratio")
    weight_decay: float = _key("optim.weight_decay")
    max_grad_norm: float | None = _key("optim.max_grad_norm")
    optimizer: str = _key("optim.name")
    beta1: float = _key("optim.beta1")
    beta2: float = _key("optim.beta2")
    eps: float = _key("optim.eps")
    amsgrad: bool = _key("optim.amsgrad")
    momentum: float = _key("optim.momentum")
    nesterov: bool = _key("optim.nesterov")
    muon_beta: float = _key("optim.muon_beta")
    muon_steps: int = _key("optim.muon_steps")
    muon_adjust: str = _key("optim.muon_adjust")
    sinkgd_iterations: int = _key("optim.sinkgd_iterations")
    sinkgd_tau: float = _key("optim.sinkgd_tau")
    spam_theta: float | None = _key("optim.spam_theta")
    spam_interval: int | None = _key("optim.spam_interval")
    spam_warmup: int | None = _key("optim.spam_warmup")
    spam_spike: float = _key("optim.spam_spike")
    rate_attention: float = _key("optim.rate_attention")
    rate_mlp: float = _key("optim.rate_mlp")
    rate_coupling: float = _key("optim.rate_coupling")
    decay_coupling: float | None = _key("optim.decay_coupling")
    schedule: str = _key("optim.schedule")
    final_learning_rate_ratio: float = _key("optim.final_learning_rate_ratio")
    decay_ratio: float = _key("optim.decay_ratio")
    decay_form: str = _key("optim.decay_form")
    # Pruning
    prune_method: str = _key("prune.method")
    prune_sparsity: float = _key("prune.sparsity")
    prune_pattern: str = _key("prune.pattern")
    prune_scope: str = _key("prune.scope")
    prune_ratio: float | None = _key("prune.ratio")
    prune_importance_attention: float = _key("prune.importance_attention")
    prune_importance_mlp: float = _key("prune.importance_mlp")
    prune_importance_coupling: float = _key("prune.importance_coupling")
    prune_schedule: str = _key("prune.schedule")
    prune_start: float = _key("prune.start")
    prune_end: float = _key("prune.end")
    prune_every: int = _key("prune.every")
    prune_threshold: str = _key("prune.threshold")
    prune_sample: float = _key("prune.sample")
    prune_epsilon: float = _key("prune.epsilon")
    prune_head: bool = _key("prune.head")
    # Loop
    gradient_accumulation_steps: int = _key("train.gradient_accumulation_steps")
    tokens_per_update: int | None = _key("train.tokens_per_update")
    examples_per_update: int | None = _key("train.examples_per_update")
    accumulate_grad_batches: int | None = _key("train.gradient_accumulation_steps", default=None)
    """Another name of gradient_accumulation_steps."""
    early_stopping_patience: int | None = _key("train.early_stopping_patience")
    lora_rank: int = _key("train.lora_rank")
    lora_alpha: float = _key("train.lora_alpha")
    lora_dropout: float = _key("train.lora_dropout")
    lora_targets: tuple[str, ...] = _key("train.lora_targets")
    eval_every: int | None = _key("train.eval_every")
    loss_chunk: int | None = _key("train.loss_chunk")
    precision: str | None = _key("train.precision", default=None)
    """fp32 (None), tf32, bf16 or fp16; '32', '32-true', 'bf16-mixed', '16', '16-mixed' are other names."""
    use_amp: bool | None = _key("train.precision", default=None)
    """True: bf16, False: fp32; None leaves it to precision."""
    speed: str = _key("train.speed")
    compile_mode: str | None = _key("train.compile", default=None)
    """torch.compile mode; None: not compiled."""
    compile_fullgraph: bool = _key("train.compile_fullgraph")
    compile_dynamic: bool | None = _key("train.compile_dynamic")
    gradient_checkpointing: bool = _key("train.gradient_checkpointing")
    ema_decay: float | None = _key("train.ema_decay")
    on_nonfinite: str = _key("train.on_nonfinite")
    max_nonfinite: int = _key("train.max_nonfinite")
    # Several devices
    strategy: str = _key("train.strategy")
    """auto, ddp or fsdp; 'fsdp_native' is another name of fsdp."""
    devices: str | int | tuple[int, ...] = _key("train.devices", default="auto")
    """Processes per machine; 'auto' leaves it to the strategy."""
    num_nodes: int = _key("train.num_nodes")
    # Model: None where the model tells
    model_name: str | None = _key("tracking.run_name", fallback=True)
    """Names the run where run_name does not."""
    vocab_size: int | None = _key("model.vocab_size")
    max_seq_len: int | None = _key("model.max_seq_len")
    d_model: int | None = _key("model.d_model")
    num_layers: int | None = _key("model.num_layers")
    num_heads: int | None = _key("model.num_heads")
    d_ff: int | None = _key("model.d_ff")
    dropout: float | None = _key("model.dropout")
    norm: str | None = _key("model.norm")
    norm_eps: float | None = _key("model.norm_eps")
    activation: str | None = _key("model.activation")
    qk_norm: bool | None = _key("model.qk_norm")
    bias: bool | None = _key("model.bias")
    positions: str | None = _key("model.positions")
    tie_word_embeddings: bool | None = _key("model.tie_word_embeddings")
    vocab_multiple: int | None = _key("model.vocab_multiple")
    # Task and data
    task_name: str = _key("data.task")
    dataset_name: str = _key("data.source")
    sequence_length: int | None = _key("data.sequence_length")
    token_dtype: str | None = _key("data.token_dtype")
    document_attention: bool = _key("data.document_attention")
    text_column: str | None = _key("data.text_column")
    label_column: str | None = _key("data.label_column")
    min_chars: int = _key("data.min_chars")
    deduplicate: str = _key("data.deduplicate")
    validation_split: float = _key("data.validation_split")
    normalize_images: str = _key("data.normalize_images")
    """none, imagenet or half."""
    bucket_by_length: bool = _key("data.bucket_by_length")
    num_workers: int = _key("data.num_workers")
    max_train_samples: int | None = _key("data.max_train_samples")
    max_val_samples: int | None = _key("data.max_val_samples")
    # Checkpoints
    checkpoint_dir: str | None = _key("job.run_dir", default=None)
    """The run folder; its checkpoints lie in checkpoints/. None: a new folder under runs/."""
    resume_from_checkpoint: str | None = _key("job.resume", default=None)
    checkpoint_every: int | None = _key("train.checkpoint_every")
    save_every_n_epochs: int = _key("train.checkpoint_every_epochs")
    keep_last: int = _key("train.keep_last")
    keep_best: int = _key("train.keep_best")
    keep_best_only: bool = _key("train.keep_last", default=False)
    """True: beside the best only the newest, which a resume needs (keep_last=1)."""
    async_save: bool | None = _key("train.async_save")
    # Tracking
    run_name: str | None = _key("tracking.run_name")
    log_every: int = _key("tracking.log_every")
    layers_every: int | None = _key("tracking.layers_every")
    attention_samples: int = _key("tracking.attention_samples")
    dashboard: bool = _key("tracking.dashboard")
    sinks: tuple[str, ...] = _key("tracking.sinks")
    tags: tuple[str, ...] = _key("tracking.tags")
    notes: str = _key("tracking.notes")

    # Known from older systems, without effect in this version.
    model_type: str | None = _no_effect(None, "the task is read from the model; see task_name")
    eval_dataset_id: str | None = _no_effect(None, "validation data is given to train()")
    dataset_split: str | None = _no_effect(None, "the source is split by validation_split")
    dataset_subset: str | None = _no_effect(None, "sources have no subsets in this version")
    wandb_project: str | None = _no_effect(
        None, "sinks=('wandb',) copies a run; WANDB_PROJECT names the project"
    )
    wandb_entity: str | None = _no_effect(
        None, "sinks=('wandb',) copies a run; WANDB_ENTITY names the entity"
    )
    export_bundle: bool = _no_effect(False, "exporting is not part of this version")
    export_formats: tuple[str, ...] = _no_effect(
        ("safetensors", "pt2", "onnx"), "exporting is not part of this version"
    )
    export_dir: str | None = _no_effect(None, "exporting is not part of this version")

    # Labels of the record itself
    created_at: str | None = _label()
    config_version: str = _label("1.0")

    def __new__(cls, *args: Any, **kwargs: Any) -> TrainingConfig:
        # Before __init__, whose TypeError would know no neighbours.
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            hints = [hint for name in unknown if (hint := suggest(name, known))]
            raise ConfigError(
                f"TrainingConfig has no field {', '.join(map(repr, unknown))}",
                why="; ".join(hints),
                next="help(torchstone.TrainingConfig) lists the fields",
            )
        return super().__new__(cls)

    # --- checking ---------------------------------------------------------------------------

    def validate(self) -> bool:
        """True, or a ConfigError that lists all that is wrong, not only the first thing."""
        self.resolved()
        return True

    def resolved(self) -> Resolved:
        """The sections that this record stands for, checked."""
        from torchstone.config.resolve import resolve

        problems = self._problems()
        resolved = resolve(SECTIONS)
        # One key after the other, so that one refusal does not hide the next.
        for key, value in self._changes(problems).items():
            try:
                resolve(SECTIONS).with_values({key: value})
            except ConfigError as error:
                if "has no effect" not in error.what:
                    problems.append(_flat(error))
        if not problems:
            try:
                return resolved.with_values(self._changes([]), source="TrainingConfig")
            except ConfigError as error:
                problems.append(_flat(error))
        raise ConfigError(
            "\n".join(["Configuration validation failed:", *(f"  - {each}" for each in problems)])
        )

    def _problems(self) -> list[str]:
        """What only the flat face can get wrong."""
        problems = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "why" in field.metadata and _plain(value) != _plain(field.default):
                problems.append(f"{field.name}={value!r} has no effect: {field.metadata['why']}")
        if _positive(self.d_model) and _positive(self.num_heads) and self.d_model % self.num_heads:  # type: ignore[operator]
            problems.append(f"d_model={self.d_model} is not divisible by num_heads={self.num_heads}")
        return problems

    def _changes(self, problems: list[str]) -> dict[str, Any]:
        """Section key -> value, for the fields that were set; contradictions go to `problems`."""
        changes: dict[str, Any] = {}
        setter: dict[str, str] = {}
        for field in dataclasses.fields(self):
            key, value = field.metadata.get("key"), getattr(self, field.name)
            if key is None or key.startswith("job.") or _plain(value) == _plain(field.default):
                continue
            if field.name == "keep_best_only":
                value = 1
            if key == "train.precision":
                value = self._precision(field.name, value, problems)
            elif key == "train.devices":
                value = _num_devices(value, problems)
            elif key == "train.strategy":
                value = STRATEGIES.get(value, value)
            if field.metadata["fallback"] and self.run_name is not None:
                continue
            if key in changes and changes[key] != value:
                problems.append(
                    f"{setter[key]}={getattr(self, setter[key])!r} and {field.name}="
                    f"{getattr(self, field.name)!r} contradict each other"
                )
            changes[key], setter[key] = value, field.name
        return changes

    def _precision(self, name: str, value: Any, problems: list[str]) -> str:
        if name == "use_amp" and isinstance(value, bool):
            return "bf16" if value else "fp32"
        if name == "precision" and str(value) in PRECISIONS:
            return PRECISIONS[str(value)]
        problems.append(f"{name}={value!r} is not supported; precision is one of {', '.join(PRECISIONS)}")
        return "fp32"

    def set_fields(self) -> set[str]:
        """Names of the fields that differ from their defaults."""
        return {
            field.name
            for field in dataclasses.fields(self)
            if _plain(getattr(self, field.name)) != _plain(field.default)
        }

    # --- to and from files ------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        fields: dict[str, Any] = dict(values)
        for name in ("export_formats", "devices", "lora_targets", "sinks", "tags"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        return cls(**fields)

    def save(self, path: str | Path | None = None) -> Path:
        """Write it as JSON; without a path to config_<date>_<time>.json in the current folder."""
        now = datetime.now()
        path = Path(path) if path is not None else Path(f"config_{now:%Y%m%d_%H%M%S}.json")
        values = self.to_dict()
        values["created_at"] = self.created_at or now.isoformat(timespec="seconds")
        write_json(path, values)
        return path

    @classmethod
    def load(cls, path: str | Path) -> TrainingConfig:
        """Read what `save` wrote. A file that is no such JSON, or has unknown fields, is a ConfigError."""
        try:
            values = read_json(Path(path))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is no JSON", why=str(error)) from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds no JSON object")
        return cls.from_dict(values)

    def replace(self, **changes: Any) -> TrainingConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _num_devices(value: Any, problems: list[str]) -> Any:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, tuple | list):
        problems.append(
            f"devices={list(value)!r} names single GPUs: give their number; CUDA_VISIBLE_DEVICES chooses"
        )
        return None
    return value


def _positive(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _flat(error: UsageError) -> str:
    return " ".join(part for part in (error.what.strip(), error.why and f"({error.why})") if part)
