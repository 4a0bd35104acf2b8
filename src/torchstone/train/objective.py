"""A model and a loss rule made into what the step minimises; batches made ready for both.

`prepare` runs on the host before the forward pass: it applies the task's own preparation, counts the
targets (so that no device has to be asked), and moves the tensors.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone._errors import DataError, ModelError
from torchstone.data.part import StandIn
from torchstone.data.token_bytes import TokenBytes
from torchstone.train.auxiliary import Auxiliary, find_auxiliary, is_withheld
from torchstone.train.device import way_to
from torchstone.train.losses import Batch, LossRule, SpecialIds, loss_sum, num_correct
from torchstone.train.split_head import Split, left_out
from torchstone.train.validation import BYTES, Observer

log = logging.getLogger(__name__)

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
    num_bytes: float | None = None
    """Bytes of text that the targets stand for; NaN: some of them cannot be told; None: nobody asked."""


class ModelObjective:
    """`forward(**inputs)` gives an output with `.logits` (an adapter) or the logits themselves."""

    def __init__(
        self,
        forward: Callable[..., Any],
        rule: LossRule,
        ids: SpecialIds | None = None,
        device: torch.device | str = "cpu",
        num_outputs: int | None = None,
        *,
        class_weights: Sequence[float] | None = None,
        model_config: Mapping[str, Any] | None = None,
        notes: list[str] | None = None,
    ) -> None:
        self.forward = forward
        self.rule = rule
        self.ids = ids or SpecialIds()
        self.device = torch.device(device)
        self.num_outputs = num_outputs
        """Classes or tokens that are scored; recognises a main tensor that nobody calls logits."""
        self.class_weights = (
            None if class_weights is None else torch.tensor(class_weights, device=self.device)
        )
        self.split: Split | None = None
        """How the loss is made by the chunk; None: from all logits at once."""
        self.token_bytes: TokenBytes | None = None
        """Bytes of the targets' text, where validation shall count them."""
        self._model_config = model_config or {}
        self._notes = [] if notes is None else notes
        self._auxiliary: Auxiliary | None = None
        self._looked_for_auxiliary = False

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Prepared:
        stands_in = isinstance(batch, StandIn)
        if self.rule.prepare is not None:
            batch = self.rule.prepare(batch, self.ids, generator)
        targets = 0 if stands_in else self.rule.count(batch)
        if self.device.type != "cpu":
            self._refuse_bad_ids(batch)  # a CPU says so itself; a GPU would die of it
            batch = {name: _moved(value, self.device) for name, value in batch.items()}
        inputs = {name: value for name, value in batch.items() if name not in self.rule.labels}
        return Prepared(inputs, batch, targets)

    def weighed(self, batch: Batch, generator: torch.Generator | None = None) -> Prepared:
        """As `prepare`, with the bytes of the targets where they can be told."""
        prepared = self.prepare(batch, generator)
        if self.token_bytes is None or self.rule.written is None:
            return prepared
        found = self.token_bytes.count(*self.rule.written(batch["labels"])) if prepared.targets else 0
        return dataclasses.replace(prepared, num_bytes=math.nan if found is None else float(found))

    def count(self, batch: Prepared) -> int:
        return batch.targets

    def loss_sum(self, batch: Prepared) -> Tensor:
        return self.measure(batch, only_loss=True)["loss"]

    def measure(
        self, batch: Prepared, observe: Observer | None = None, *, only_loss: bool = False
    ) -> dict[str, Tensor]:
        try:
            measured, output = self._measured(batch, observe, only_loss)
        except IndexError as error:
            self._refuse_bad_ids(batch.labels)
            if str(error).startswith("Target"):
                raise DataError(
                    "a label names a class that the model does not have",
                    why=str(error),
                    next="give the model as many classes as the data has, or correct the labels",
                ) from error
            raise
        if torch.is_grad_enabled():  # the model's own terms belong to training
            term = self._auxiliary_loss(output)
            if term is not None:
                measured["loss"] = measured["loss"] + term * batch.targets
        if batch.num_bytes is not None:
            measured[BYTES] = torch.tensor(batch.num_bytes, device=self.device)
        if not batch.targets:  # a stand-in for another rank's example: nothing, but still tied to the weights
            return {name: score * 0 for name, score in measured.items()}
        return measured

    def _measured(
        self, batch: Prepared, observe: Observer | None, only_loss: bool
    ) -> tuple[dict[str, Tensor], Any]:
        if self.split is not None and observe is None:
            given, output = self.hidden(batch) if self.split.head is not None else self.logits(batch)
            aligned, targets = self.rule.align(given, batch.labels)
            loss, correct = self.split.scores(aligned, targets)
            return {"loss": loss, "accuracy": correct}, output
        logits, output = self.logits(batch)
        if observe is not None:
            observe(logits, batch.labels)
        measured = {"loss": loss_sum(self.rule, logits, batch.labels, self.class_weights)}
        if not only_loss:
            correct_or_none = num_correct(self.rule, logits.detach(), batch.labels)
            if correct_or_none is not None:
                measured["accuracy"] = correct_or_none
        return measured, output

    def hidden(self, batch: Prepared) -> tuple[Tensor, Any]:
        """What goes into the head, and the output that the model gives without it."""
        assert self.split is not None and self.split.head is not None
        with left_out(self.split.head) as seen:
            output = self.forward(**batch.inputs)
        return seen[-1], output

    def logits(self, batch: Prepared) -> tuple[Tensor, Any]:
        """What is scored, and the output that it was read from."""
        output = self.forward(**batch.inputs)
        if isinstance(output, Tensor):
            return output, output
        if self.rule.read is not None:
            read = self.rule.read(output.raw)
            if read is not None:
                return read, output
        elif output.logits is not None:
            return output.logits, output
        main: Tensor | None = output.main
        wanted = 1 if self.rule.is_squared else self.num_outputs
        if main is not None and self.rule.read is None and wanted is not None and main.shape[-1] == wanted:
            return main, output
        raise ModelError(
            f"the model gives no logits, which the task {self.rule.name} is scored by",
            where="" if main is None else f"its output has shape {tuple(main.shape)}",
            why=f"{self.num_outputs or 'an unknown number of'} classes or tokens are to be told apart",
            next="train it with a head, or say what it is with a TaskSpec (num_classes, vocab_size)",
        )

    def _auxiliary_loss(self, output: Any) -> Tensor | None:
        raw = getattr(output, "raw", None)
        if not self._looked_for_auxiliary:
            self._looked_for_auxiliary = True
            self._auxiliary = find_auxiliary(raw, self._model_config)
            if self._auxiliary is not None:
                self._note(
                    f"train/loss includes the model's own {self._auxiliary.field} "
                    f"x {self._auxiliary.coefficient:g}; val/loss does not"
                )
            elif is_withheld(raw, self._model_config):
                self._note(
                    "the model's config has a router loss that its output does not hold: it is not trained "
                    "on (transformers: set config.output_router_logits=True)"
                )
        return None if self._auxiliary is None else self._auxiliary.of(raw)

    def _note(self, text: str) -> None:
        log.warning(text)
        self._notes.append(text)

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

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.loader.state()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        self.loader.load_state(state)


def validation_batches(batches: Iterable[Batch], objective: ModelObjective) -> Iterator[Prepared]:
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    for batch in batches:
        yield objective.weighed(batch, generator)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(**way_to(device, value.dtype)) if isinstance(value, Tensor) else value
