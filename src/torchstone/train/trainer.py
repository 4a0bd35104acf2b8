"""`Trainer`: training from Python, with whatever model and data one has at hand.

    trainer = Trainer(model, TrainingConfig(epochs=2), task=TaskSpec.language_modeling())
    result = trainer.train(train_data, val_data)
    result.final["val/loss"], result["loss_history"]

The loop, the checkpoints and the laws are those of the command line; only the door is another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from torchstone._errors import ConfigError, UsageError
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.load import LoadedModel, load
from torchstone.data.door import open_data
from torchstone.data.loader import Loader
from torchstone.data.normalisation import with_normalisation
from torchstone.data.part import Part
from torchstone.data.quality import require_long_enough
from torchstone.data.task import TaskSpec
from torchstone.train.auto import adopt, has_to_settle, settle
from torchstone.train.device import choose_device
from torchstone.train.facts import data_facts
from torchstone.train.fit import fit
from torchstone.train.lora import AdapterKeeper, with_lora
from torchstone.train.losses import LOSSES, Batch
from torchstone.train.place import find_place, recorded
from torchstone.train.rank_group import meet
from torchstone.train.ranks import ALONE, Ranks
from torchstone.train.replay import ReplayedLoader, is_loader
from torchstone.train.result import Stopped, TrainResult
from torchstone.train.run import can_sample, model_record, sampler, saver
from torchstone.train.scoring import bytes_in_validation
from torchstone.train.separation import require_separation
from torchstone.train.size_hints import tell_sizes
from torchstone.train.special_ids import special_ids
from torchstone.train.subject import Subject
from torchstone.train.text import read_text
from torchstone.train.training_config import TrainingConfig

if TYPE_CHECKING:
    from torchstone.config.resolve import Resolved

__all__ = ["TrainResult", "Trainer"]

CLASS_KINDS = ("classification", "token-classification", "vision")

SIZES = {
    "vocab_size": ("vocab_size",),
    "max_seq_len": ("max_seq_len", "max_position_embeddings", "n_positions"),
    "d_model": ("d_model", "hidden_size", "n_embd"),
    "num_layers": ("num_layers", "num_hidden_layers", "n_layer"),
    "num_heads": ("num_heads", "num_attention_heads", "n_head"),
    "d_ff": ("d_ff", "intermediate_size", "n_inner"),
    "dropout": ("dropout", "resid_pdrop", "hidden_dropout_prob"),
    "norm": ("norm",),
    "norm_eps": ("norm_eps",),
    "activation": ("activation",),
    "qk_norm": ("qk_norm",),
    "bias": ("bias",),
    "positions": ("positions",),
    "tie_word_embeddings": ("tie_word_embeddings",),
    "vocab_multiple": ("vocab_multiple",),
}
"""Fields of TrainingConfig that the model is made by, and the names under which its own config holds them."""


class Trainer:
    """One model, one configuration; each `train` is a run."""

    def __init__(
        self,
        model: nn.Module | LoadedModel | Adapter | str | Path,
        config: TrainingConfig | None = None,
        *,
        task: TaskSpec | str | None = None,
        tokenizer: Any = None,
        collator: Callable[[Sequence[Any]], Batch] | None = None,
        hooks: Sequence[object] | object | None = None,
        device: str | None = None,
    ) -> None:
        self.config = config if config is not None else TrainingConfig()
        self.config.validate()
        self.tokenizer = tokenizer
        self.collator = collator
        self.hooks = _as_list(hooks)
        self.device = choose_device(device)
        self._device_name = device
        if task is None and self.config.task_name != "auto":
            task = self.config.task_name
        self._task = TaskSpec.from_name(task) if isinstance(task, str) else task
        self.loaded = _load(model, self._task, self.config)
        self._lora: dict[str, Any] | None = None

    @property
    def model(self) -> nn.Module:
        return self.loaded.module

    @property
    def task(self) -> TaskSpec:
        """What the user said, completed by what the model tells."""
        said, found = self._task or self.loaded.task, self.loaded.facts
        has_classes = said.kind in CLASS_KINDS
        return dataclasses.replace(
            said,
            vocab_size=said.vocab_size or found.vocab_size,
            pad_token_id=said.pad_token_id if said.pad_token_id is not None else found.pad_token_id,
            max_length=said.max_length or found.max_seq_len,
            num_classes=said.num_classes or (_known_classes(self.loaded) if has_classes else None),
        )

    def train(
        self, train_data: Any, val_data: Any = None, *, resume: str | Path | None = None
    ) -> TrainResult:
        """Train on `train_data`: a torch or Hugging Face dataset, a DataLoader, a list of tensors or texts,
        an array or memory map of token ids, or the name of a source (text, or a .bin or .npy file of ids).

        Without `val_data` nothing is validated; no part of the training data is taken away for it.
        `resume` is "never", "auto" (goes on in config.checkpoint_dir) or a checkpoint. A signal raises
        `Stopped` with the state saved; `max_time_s` ends with status interrupted.
        """
        config = self.config.resolved()
        if isinstance(train_data, Path):
            train_data = str(train_data)
        if isinstance(train_data, str):
            config = config.with_values({"data.source": train_data}, source="train_data")
        ranks, device = meet(config.train, self._device_name)
        wanted = resume if resume is not None else self.config.resume_from_checkpoint or "never"
        config = adopt(config, recorded(self.config.checkpoint_dir, wanted))
        place = ranks.from_main(lambda: find_place(self.config.checkpoint_dir, wanted, config))
        if place.finished is not None:
            return place.finished
        if has_to_settle(config):
            config = ranks.from_main(lambda: self._settled(train_data, config, ranks.world))
        subject = self._subject(train_data, val_data, config, ranks)
        subject = dataclasses.replace(subject, ranks=ranks, device=device if ranks.world > 1 else self.device)
        result = fit(subject, config, place, hooks=self.hooks)
        if result.status == "interrupted" and result.reason.startswith("SIG"):
            raise Stopped(result)
        return result

    def _settled(self, train_data: Any, config: Resolved, world: int) -> Resolved:
        """What the configuration leaves open, chosen for this model, this data and this device."""
        (settings,) = settle(
            [config],
            lambda trial: self._subject(train_data, None, trial, ALONE),
            device=self.device,
            world=world,
        )
        return settings

    def _subject(self, train_data: Any, val_data: Any, config: Resolved, ranks: Ranks) -> Subject:
        if self._lora is None:  # once: a second run goes on with the same adapters
            self.loaded, self._lora = with_lora(self.loaded, config)
        loaded, lora, task = self.loaded, self._lora, self.task
        rule = LOSSES.get(task.kind)
        _require_classes(task, loaded)
        notes, tokenizer = list(loaded.notes), self.tokenizer
        scored: Any = None
        names: tuple[str, ...] = ()
        if isinstance(train_data, str):
            with ranks.main_first():
                text = read_text(config, task, loaded.facts, tokenizer=tokenizer, part=ranks.part)
            if config.data.document_attention:
                require_separation(loaded.adapter, loaded.module, text.batches.dataset)
            batches, validation, tokenizer = text.batches, text.validation, text.tokenizer
            data, scored = data_facts(text.batches, text.held_out, look=True), text.held_out
            notes += text.notes
            task, names = text.task or task, text.class_names
            if val_data is not None:
                raise UsageError(
                    "val_data has no place beside a source",
                    why="a source is split by validation_split",
                    next="pass both as datasets, or leave val_data out",
                )
        else:
            batches = self._batches(train_data, config, notes, ranks.part, shuffle=True)
            held_out = None
            if val_data is not None:
                held_out = self._batches(val_data, config, notes, ranks.part, shuffle=False)
                scored = getattr(held_out, "dataset", None)
            validation = _from_the_start(held_out)
            data = data_facts(batches, held_out, look=False)  # a dataset of the user's may count its calls
        tell_sizes(loaded.module, self.device, notes)
        told = None
        if validation is None:
            notes.append("no validation data: only the training loss is measured")
        else:
            told = bytes_in_validation(rule, tokenizer, scored, notes)
        return Subject(
            module=loaded.module,
            forward=loaded.adapter,
            task=task,
            ids=special_ids(
                task.kind,
                loaded.facts,
                tokenizer,
                loaded.config,
                packed=isinstance(train_data, str),
                notes=notes,
            ),
            model=(record := model_record(loaded) | lora),
            batches=batches,
            validation=validation,
            device=self.device,
            save_extras=saver(tokenizer, names),
            sampler=sampler(loaded.adapter, tokenizer, self.device) if can_sample(task, tokenizer) else None,
            notes=notes,
            data=data,
            hooks=(AdapterKeeper(loaded.module, record),) if lora else (),
            token_bytes=told,
        )

    def _batches(self, data: Any, config: Resolved, notes: list[str], part: Part, *, shuffle: bool) -> Any:
        limit = config.data.max_train_samples if shuffle else config.data.max_val_samples
        if is_loader(data):
            self._refuse_data_keys(takes_length=False)
            if limit is not None:
                raise ConfigError(
                    "max_train_samples and max_val_samples have no effect on a DataLoader",
                    next="give the dataset itself, or a smaller DataLoader",
                )
            for name, default in (("bucket_by_length", False), ("normalize_images", "none")):
                if getattr(config.data, name) != default:
                    raise ConfigError(f"{name} has no effect on a DataLoader", next="give the dataset itself")
            if config.data.num_workers:
                raise ConfigError(
                    "num_workers has no effect on a DataLoader", next="say DataLoader(num_workers=...)"
                )
            return ReplayedLoader(data, self.task, part)
        opened = open_data(
            data,
            with_normalisation(self.task, config.data.normalize_images),
            tokenizer=self.tokenizer,
            sequence_length=config.data.sequence_length,
            collate=self.collator,
            notes=notes,
        )
        self._refuse_data_keys(takes_length=opened.takes_length)
        if len(opened.dataset) == 1:
            notes.append(f"the {'training' if shuffle else 'validation'} data is a single example")
        loop = config.train
        loader = Loader(
            opened.dataset,
            loop.batch_size,
            loop.random_seed,
            shuffle=shuffle,
            max_samples=limit,
            task=self.task,
            num_workers=config.data.num_workers,
            bucket_by_length=shuffle and config.data.bucket_by_length,
            part=part,
        )
        require_long_enough(opened.dataset, self.task, loop.random_seed)
        first, rule = loader.first(), LOSSES.get(self.task.kind)
        if rule.prepare is None:
            rule.count(first)  # a batch without labels is told before a run begins
        return loader

    def _refuse_data_keys(self, *, takes_length: bool) -> None:
        """Keys that steer how a source is read have no effect on data that is given."""
        keys = {"dataset_name", "validation_split", "text_column", "label_column", "min_chars", "deduplicate"}
        keys.add("document_attention")
        keys |= set() if takes_length else {"sequence_length"}
        useless = keys & self.config.set_fields()
        if useless:
            raise ConfigError(
                f"{', '.join(sorted(useless))} has no effect on data that is passed in",
                why="the data is taken as it is; nothing is split off or cut",
                next="pass val_data, or train on a source with torchstone train --data",
            )


def _from_the_start(held_out: Any) -> Callable[[], Iterable[Batch]] | None:
    """The same batches each time it is called."""
    if held_out is None:
        return None
    start = held_out.state()

    def batches() -> Iterable[Batch]:
        held_out.load_state(start)
        return (batch for batch, _ in held_out)

    return batches


def _load(
    model: nn.Module | LoadedModel | Adapter | str | Path, task: TaskSpec | None, config: TrainingConfig
) -> LoadedModel:
    if isinstance(model, LoadedModel):
        loaded = model if task is None else dataclasses.replace(model, task_given=task)
    elif isinstance(model, Adapter):
        loaded = load(model.module, task=task or model.task)
    elif isinstance(model, str | Path):
        sizes = {name: getattr(config, name) for name in SIZES}
        return load(model, task=task, overrides=sizes, seed=config.random_seed)
    elif isinstance(model, nn.Module):
        loaded = load(model, task=task)
    else:
        raise UsageError(
            f"a {type(model).__name__} is no model", next="give an nn.Module, ts.load(...) or a TARGET"
        )
    _require_sizes(loaded, config)
    return loaded


def _require_classes(task: TaskSpec, loaded: LoadedModel) -> None:
    """A label beyond the model's classes would be found only when its batch comes."""
    known = _known_classes(loaded)
    if task.kind not in CLASS_KINDS or known is None or (task.num_classes or 0) <= known:
        return
    raise UsageError(
        f"the task has {task.num_classes} classes and the model tells {known} apart",
        where=loaded.class_name,
        next=f"give the model {task.num_classes} classes, or say TaskSpec(num_classes={known})",
    )


def _known_classes(loaded: LoadedModel) -> int | None:
    """Classes of the model by its configuration, which may list them instead of counting them."""
    listed = loaded.config.get("id2label")
    return loaded.facts.num_classes or (len(listed) if isinstance(listed, dict) else None)


def _require_sizes(loaded: LoadedModel, config: TrainingConfig) -> None:
    """A built model keeps its sizes; a field that says otherwise would be ignored, so it is refused."""
    wrong = []
    for field, names in SIZES.items():
        wanted = getattr(config, field)
        if wanted is None:
            continue
        own = getattr(loaded.facts, field, None)
        for name in names:
            own = loaded.config.get(name) if own is None else own
        if own != wanted:
            wrong.append(f"{field}={wanted}, but the model has {own if own is not None else 'none to set'}")
    if wrong:
        raise ConfigError(
            "the sizes of a model that is already built cannot be changed",
            why="; ".join(wrong),
            next="leave them out (the model tells them), or give a TARGET instead of a module",
        )


def _as_list(hooks: Sequence[object] | object | None) -> Sequence[object]:
    if hooks is None:
        return ()
    return hooks if isinstance(hooks, list | tuple) else (hooks,)
