"""A model and a loss rule made into what the step minimises; batches made ready for both.

`prepare` runs on the host before the forward pass: it applies the task's own preparation, counts the
targets (so that no device has to be asked), and moves the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone._errors import DataError, ModelError
from torchstone.train.losses import Batch, LossRule, SpecialIds, loss_sum, num_correct
from torchstone.train.validation import Observer

VALIDATION_SEED = 0
"""Validation hides the same tokens each time, so that its curve is of the model alone."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch on its device, with the number of its targets."""

    inputs: Batch
    """What the model is given."""
    labels: Batch
    """What the loss rule is given: labels and masks."""
    targets: int


class ModelObjective:
    """`forward(**inputs)` gives an output with `.logits` (an adapter) or the logits themselves."""

    def __init__(
        self,
        forward: Callable[..., Any],
        rule: LossRule,
        ids: SpecialIds | None = None,
        device: torch.device | str = "cpu",
        num_outputs: int | None = None,
    ) -> None:
        self.forward = forward
        self.rule = rule
        self.ids = ids or SpecialIds()
        self.device = torch.device(device)
        self.num_outputs = num_outputs
        """Classes or tokens that are scored; recognises a main tensor that nobody calls logits."""

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Prepared:
        if self.rule.prepare is not None:
            batch = self.rule.prepare(batch, self.ids, generator)
        targets = self.rule.count(batch)
        if self.device.type != "cpu":
            self._refuse_bad_ids(batch)  # a CPU says so itself; a GPU would die of it
            batch = {name: _moved(value, self.device) for name, value in batch.items()}
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return Prepared(inputs, batch, targets)

    def count(self, batch: Prepared) -> int:
        return batch.targets

    def loss_sum(self, batch: Prepared) -> Tensor:
        try:
            return loss_sum(self.rule, self._logits(batch), batch.labels)
        except IndexError:
            self._refuse_bad_ids(batch.labels)
            raise

    def measure(self, batch: Prepared, observe: Observer | None = None) -> dict[str, Tensor]:
        logits = self._logits(batch)
        if observe is not None:
            observe(logits, batch.labels)
        return {
            "loss": loss_sum(self.rule, logits, batch.labels),
            "accuracy": num_correct(self.rule, logits, batch.labels),
        }

    def _logits(self, batch: Prepared) -> Tensor:
        output = self.forward(**batch.inputs)
        if isinstance(output, Tensor):
            return output
        if output.logits is not None:
            logits: Tensor = output.logits
            return logits
        main: Tensor | None = output.main
        if main is not None and self.num_outputs is not None and main.shape[-1] == self.num_outputs:
            return main
        raise ModelError(
            f"the model gives no logits, which the task {self.rule.name} is scored by",
            where="" if main is None else f"its output has shape {tuple(main.shape)}",
            why=f"{self.num_outputs or 'an unknown number of'} classes or tokens are to be told apart",
            next="train it with a head, or say what it is with a TaskSpec (num_classes, vocab_size)",
        )

    def _refuse_bad_ids(self, batch: Batch) -> None:
        limit = self.ids.vocab_size
        ids = batch.get("input_ids")
        if limit is None or ids is None or ids.numel() == 0:
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= limit:
            raise DataError(
                f"token id {low if low < 0 else high} is outside the model's vocabulary",
                why=f"the model knows the ids 0 to {limit - 1}",
                next="use the tokenizer that belongs to the model, or set model.vocab_size",
            )


class PreparedBatches:
    """Training batches, prepared as they are drawn; the loader's state passes through."""

    def __init__(self, loader: Any, objective: ModelObjective) -> None:
        self.loader = loader
        self.objective = objective

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Prepared, dict[str, Any]]]:
        for batch, state in self.loader:
            yield self.objective.prepare(batch), state

    def load_state(self, state: dict[str, Any]) -> None:
        self.loader.load_state(state)


def validation_batches(batches: Iterable[Batch], objective: ModelObjective) -> Iterator[Prepared]:
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    for batch in batches:
        yield objective.prepare(batch, generator)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
