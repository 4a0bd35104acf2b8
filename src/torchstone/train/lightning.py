"""For users of Lightning: our adapter and loss rules as a LightningModule, and a thin coordinator.

    module = UniversalModelAdapter(model, learning_rate=3e-4)
    lightning.Trainer(max_epochs=3, accumulate_grad_batches=4).fit(module, train_loader, val_loader)

    results = TrainingCoordinator("out").train(model, dataset="builtin:stdlib")

The loop is Lightning's. Losses, optimizers and schedules are ours, and the law of accumulation: every split
of the same tokens gives the same gradient, a last partial window included. Needs the extra [lightning].
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from torchstone._errors import DataError, UsageError
from torchstone._optional import require
from torchstone.adapt.generate import generate
from torchstone.adapt.load import LoadedModel, load
from torchstone.config.resolve import resolve
from torchstone.data.dataset import as_dataset
from torchstone.data.task import TaskSpec
from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import build_optimizer
from torchstone.optim.schedule import learning_rate_at
from torchstone.train.config import SECTIONS
from torchstone.train.losses import IGNORED, LOSSES
from torchstone.train.notebook import refuse_in_notebook
from torchstone.train.objective import ModelObjective
from torchstone.train.result import perplexity
from torchstone.train.special_ids import special_ids
from torchstone.train.text import read_text

if TYPE_CHECKING:
    from torchstone.adapt.output import Output

_L: Any = require("lightning.pytorch", "lightning")
log = logging.getLogger(__name__)

_SCALE = 1024.0
"""Sums of losses are made so much smaller for the backward pass, that float16 can hold the gradients. A power
of two: nothing is rounded."""


class UniversalModelAdapter(_L.LightningModule):
    """Any model as a LightningModule; `loss` is the mean over targets, sequences are shifted once."""

    def __init__(
        self,
        generated_model: nn.Module | LoadedModel | str | Path,
        config: Any = None,
        tokenizer: Any = None,
        learning_rate: float = 5e-5,
        *,
        task: TaskSpec | str | None = None,
        optim: OptimConfig | None = None,
    ) -> None:
        """`config` is the model's own, where it carries none; `optim` says more than `learning_rate`."""
        super().__init__()
        loaded = (
            generated_model if isinstance(generated_model, LoadedModel) else load(generated_model, task=task)
        )
        if config is not None:
            loaded.config = dict(config) if isinstance(config, Mapping) else dict(vars(config))
        self.model = loaded.module
        self.learning_rate = learning_rate if optim is None else optim.learning_rate
        self.optim = optim or OptimConfig(learning_rate=learning_rate)
        self.adapter = loaded.adapter
        self.task = loaded.task
        rule = LOSSES.get(self.task.kind)
        notes: list[str] = []
        ids = special_ids(self.task.kind, loaded.facts, tokenizer, loaded.config, notes=notes)
        num_outputs = self.task.num_classes if self.task.num_classes is not None else loaded.facts.vocab_size
        # Lightning moves the batches; an objective on the CPU leaves them where they are.
        self.objective = ModelObjective(self.adapter, rule, ids, "cpu", num_outputs, notes=notes)
        self._window_targets = 0
        self._validated = [0.0, 0.0, 0.0]
        self.hparams.update({"learning_rate": self.learning_rate})

    def forward(self, **batch: Any) -> dict[str, Tensor | None]:
        """`{"logits", "loss"}`; `loss` is None without labels."""
        if batch.get("labels") is None:
            output: Output = self.adapter(**{name: each for name, each in batch.items() if name != "labels"})
            return {"logits": output.logits if output.logits is not None else output.main, "loss": None}
        seen: list[Tensor] = []
        prepared = self.objective.prepare(batch)
        measured = self.objective.measure(prepared, lambda logits, _: seen.append(logits))
        return {"logits": seen[0], "loss": measured["loss"] / max(prepared.targets, 1)}

    # --- training ---------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The *sum* of the losses; `on_before_optimizer_step` divides by the targets of the whole window."""
        prepared = self.objective.prepare(self._labelled(batch))
        total = self.objective.loss_sum(prepared)
        self._window_targets += prepared.targets
        targets = max(prepared.targets, 1)
        self.log("train_loss", total.detach() / targets, batch_size=targets, prog_bar=True, on_epoch=True)
        # Lightning divides by this number, whether the window is full or not.
        return total * (self.trainer.accumulate_grad_batches / _SCALE)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients of the window's mean, whatever its number of batches; before they are clipped."""
        counted = torch.tensor(float(self._window_targets), device=self.device)
        # Gradients are means over the processes by now, so the count is one too.
        targets = float(self.trainer.strategy.reduce(counted, reduce_op="mean"))
        self._window_targets = 0
        if targets == 0:
            raise DataError("a whole optimizer step has nothing to learn from", why="no label counts")
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        torch._foreach_mul_(gradients, _SCALE / targets)

    def configure_optimizers(self) -> dict[str, Any]:
        """By our registry: parameter groups by role, and the schedule by optimizer step."""
        optimizer = build_optimizer(self.model, self.optim)
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_at(step, total, self.optim) / self.optim.learning_rate
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- validation -------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._validated = [0.0, 0.0, 0.0]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        prepared = self.objective.prepare(self._labelled(batch))
        measured = self.objective.measure(prepared)
        correct = float(measured["accuracy"]) if "accuracy" in measured else 0.0
        parts = (float(measured["loss"]), correct, float(prepared.targets))
        self._validated = [held + part for held, part in zip(self._validated, parts, strict=True)]

    def on_validation_epoch_end(self) -> None:
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        sums = torch.tensor(self._validated, dtype=exact, device=self.device)
        loss, correct, targets = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        if not targets:
            raise DataError("the validation set has no target to score", why="no label counts")
        self.log("val_loss", loss / targets, prog_bar=True)
        if self.objective.rule.has_perplexity:
            self.log("val_perplexity", perplexity(loss / targets))
        if not self.objective.rule.is_squared:
            self.log("val_accuracy", correct / targets)

    # --- beside the loop --------------------------------------------------------------------------

    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int = 50,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Ids (B, T) -> (B, T + n)."""
        return generate(self.adapter, input_ids, max_new_tokens, temperature, top_k, seed)

    def _labelled(self, batch: Any) -> dict[str, Any]:
        if isinstance(batch, Tensor):
            batch = {"input_ids": batch}
        elif isinstance(batch, tuple | list):
            batch = dict(zip(("input_ids", "labels"), batch, strict=False))
        if "labels" in batch or self.task.kind not in ("causal-lm", "masked-lm"):
            return dict(batch)
        labels, mask = batch["input_ids"], batch.get("attention_mask")
        return {**batch, "labels": labels.clone() if mask is None else labels.masked_fill(mask == 0, IGNORED)}


# --- the coordinator ----------------------------------------------------------------------------


class TrainingCoordinator:
    """Data, callbacks and a Lightning Trainer in one call; checkpoints in `output_dir/checkpoints/RUN`."""

    def __init__(
        self,
        output_dir: str | Path = "./training_output",
        use_gpu: bool = True,
        precision: str = "16",
        gradient_clip_val: float | None = 1.0,
        strategy: str = "auto",
        devices: int | str | None = None,
        num_nodes: int = 1,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.use_gpu = use_gpu
        self.precision = precision
        self.gradient_clip_val = gradient_clip_val
        self.strategy = strategy
        self.devices = devices
        self.num_nodes = num_nodes
        self._guard()
        for name in ("checkpoints", "logs"):
            (self.output_dir / name).mkdir(parents=True, exist_ok=True)

    def train(
        self,
        model: nn.Module | LoadedModel | UniversalModelAdapter | str | Path,
        dataset: Any = None,
        *,
        dataset_path: str | None = None,
        val_dataset: Any = None,
        batch_size: int = 16,
        max_length: int = 512,
        learning_rate: float = 1e-4,
        max_epochs: int = 3,
        val_split: float = 0.1,
        accumulate_grad_batches: int = 1,
        early_stopping_patience: int | None = 5,
        early_stopping_min_delta: float = 0.0,
        save_top_k: int = 3,
        save_every_n_epochs: int = 1,
        num_workers: int = 0,
        tokenizer: Any = None,
        datamodule: Any = None,
        resume_from_checkpoint: str | Path | None = None,
        seed: int = 42,
        deterministic: bool = False,
        use_amp: bool | None = None,
        run_name: str | None = None,
        task: TaskSpec | str | None = None,
    ) -> dict[str, Any]:
        """Train, and return best_model_path, final_metrics, trainer, model, checkpoint_manager, tokenizer.

        `dataset` is a dataset, a list of tensors, or the name of a text source (also `dataset_path`). Without
        `val_dataset` the share `val_split` of it is held out; 0 holds nothing out.
        """
        self._guard()
        _L.seed_everything(seed, verbose=False)
        module = (
            model
            if isinstance(model, UniversalModelAdapter)
            else UniversalModelAdapter(model, None, tokenizer, learning_rate, task=task)
        )
        data: dict[str, Any] = {"datamodule": datamodule}
        if datamodule is None:
            given = dataset if dataset is not None else dataset_path
            train, val, tokenizer = _data(module, given, val_dataset, tokenizer, max_length, val_split, seed)
            data = {
                "train_dataloaders": _loader(train, batch_size, num_workers, shuffle=True),
                "val_dataloaders": None if val is None else _loader(val, batch_size, num_workers),
            }
        validates = datamodule is not None or data["val_dataloaders"] is not None
        folder = self.output_dir / "checkpoints" / (run_name or "run_default")
        best, callbacks = _callbacks(
            folder,
            validates,
            save_top_k,
            save_every_n_epochs,
            early_stopping_patience,
            early_stopping_min_delta,
        )
        trainer = _L.Trainer(
            accelerator="auto" if self.use_gpu else "cpu",
            devices="auto" if self.devices is None else self.devices,
            num_nodes=self.num_nodes,
            strategy=self.strategy,
            precision=self._precision(use_amp),
            gradient_clip_val=self.gradient_clip_val,
            max_epochs=max_epochs,
            accumulate_grad_batches=accumulate_grad_batches,
            deterministic=deterministic,
            callbacks=callbacks,
            logger=_L.loggers.CSVLogger(str(self.output_dir / "logs"), name=run_name or "run_default"),
            default_root_dir=str(self.output_dir),
            enable_model_summary=False,
        )
        resume = None if resume_from_checkpoint is None else str(resume_from_checkpoint)
        trainer.fit(module, ckpt_path=resume, **data)
        return {
            "best_model_path": best.best_model_path,
            "final_metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "trainer": trainer,
            "model": module,
            "checkpoint_manager": best,
            "tokenizer": tokenizer,
        }

    def _guard(self) -> None:
        if self.strategy.startswith(("ddp", "fsdp", "deepspeed")):
            refuse_in_notebook(self.strategy)

    def _precision(self, use_amp: bool | None) -> str:
        wanted = compute_effective_precision(self.precision, use_amp, torch.cuda.is_available(), self.use_gpu)
        known = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
        if wanted not in known:
            raise UsageError(f"precision {wanted!r} is unknown", next=f"choose one of: {', '.join(known)}")
        if wanted == "16" and not (torch.cuda.is_available() and self.use_gpu):
            log.warning("precision 16 needs a GPU: training in 32")
            return known["32"]
        return known[wanted]


def compute_effective_precision(
    requested: str, use_amp: bool | None, cuda_available: bool, use_gpu: bool
) -> str:
    """`use_amp` decides where it is set: 16 on a GPU, else 32."""
    if use_amp is None:
        return requested
    return "16" if use_amp and cuda_available and use_gpu else "32"


class BestCheckpoint(_L.callbacks.ModelCheckpoint):
    """Keeps best.ckpt. Lightning tells two callbacks of one class apart by their settings only."""


def _callbacks(
    folder: Path, validates: bool, top_k: int, every: int, patience: int | None, min_delta: float
) -> tuple[Any, list[Any]]:
    """best.ckpt (by val_loss, where there is one), the top k and last.ckpt."""
    checkpoint = _L.callbacks.ModelCheckpoint
    monitor = {"monitor": "val_loss", "mode": "min"} if validates else {}
    best = BestCheckpoint(
        dirpath=folder, filename="best", save_top_k=1, every_n_epochs=every, enable_version_counter=False,
        **monitor,
    )  # fmt: skip
    form = "{epoch:02d}-{val_loss:.4f}" if validates else "{epoch:02d}"
    kept = checkpoint(
        dirpath=folder, filename=form, save_top_k=top_k if validates else 1, save_last=True,
        every_n_epochs=every, **monitor,
    )  # fmt: skip
    callbacks = [best, kept]
    if patience is not None and validates:
        callbacks.append(
            _L.callbacks.EarlyStopping("val_loss", patience=patience, min_delta=min_delta, mode="min")
        )
    return best, callbacks


class _Rows:
    """Indices to a batch: our datasets give whole batches."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = self.dataset.batch(list(indices))
        return batch


def _loader(part: tuple[Any, Sequence[int]], batch_size: int, num_workers: int, shuffle: bool = False) -> Any:
    dataset, indices = part
    return DataLoader(
        list(indices),  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=_Rows(dataset),
        persistent_workers=num_workers > 0,
    )


def _data(
    module: UniversalModelAdapter,
    given: Any,
    val: Any,
    tokenizer: Any,
    max_length: int,
    val_split: float,
    seed: int,
) -> tuple[tuple[Any, Sequence[int]], tuple[Any, Sequence[int]] | None, Any]:
    """(dataset, indices) of both splits, and the tokenizer that was used."""
    if given is None:
        raise UsageError("there is nothing to train on", next="pass dataset=, dataset_path= or datamodule=")
    if isinstance(given, str):
        facts = module.adapter.facts
        longest = min(max_length, facts.max_seq_len or max_length)
        config = resolve(SECTIONS).with_values(
            {"data.source": given, "data.sequence_length": longest, "data.validation_split": val_split},
            source="TrainingCoordinator.train",
        )
        text = read_text(config, module.task, facts, tokenizer=tokenizer)
        blocks, held_out = text.batches.dataset, text.held_out
        parts = None if held_out is None else (held_out, range(len(held_out)))
        return (blocks, range(len(blocks))), parts, text.tokenizer
    dataset = as_dataset(given, module.task, None)
    if val is not None:
        held = as_dataset(val, module.task, None)
        return (dataset, range(len(dataset))), (held, range(len(held))), tokenizer
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    size = round(val_split * len(dataset))
    if not size:
        log.warning("no validation data: only the training loss is measured")
        return (dataset, order), None, tokenizer
    log.warning("%d of %d examples are held out (val_split = %g)", size, len(dataset), val_split)
    return (dataset, order[size:]), (dataset, order[:size]), tokenizer
