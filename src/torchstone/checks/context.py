"""What a check gets: the model, example inputs, the plan, and forward passes that leave no trace.

A check calls `context.forward(batch)` (evaluation mode, seeded, no gradients) and ends with
`return context.passed("one sentence", measured=...)` or `.failed`, `.warned`, `.skipped`.
A check may change the model (train it, put hooks on it): the runner puts everything back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import ModelError
from torchstone._seeds import seed_everything
from torchstone.checks.keep import Kept
from torchstone.tracking.records import CheckResult, Status

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchstone.adapt.adapter import Adapter
    from torchstone.adapt.load import LoadedModel
    from torchstone.adapt.output import Output
    from torchstone.checks.plan import ProbePlan
    from torchstone.checks.registry import Check

Batch = dict[str, Any]


@dataclass
class Context:
    """One model under proof."""

    adapter: Adapter
    plan: ProbePlan
    seed: int
    device: torch.device
    examples: Any
    """`.batch(batch_size, length=None, seed=0)` and `.primary`."""
    config: dict[str, Any] = field(default_factory=dict)
    wishes: Mapping[str, Any] = field(default_factory=dict)
    """What the user names for checks that compare: `baseline` and whether its code is trusted, `glue` ..."""
    cache: dict[Any, Any] = field(default_factory=dict)
    """Shared between the checks of one job, such as baseline outputs."""
    current: Check | None = None
    text_alone: bool = False
    """Batches hold ids only: for probes that take rows and positions apart, which packed images forbid."""
    kept: Kept = field(init=False)
    """The whole model, as it came."""
    state: Kept = field(init=False)
    """Buffers and attributes as they came: what a forward pass may change."""

    def __post_init__(self) -> None:
        self.kept = Kept(self.module)
        self.state = Kept(self.module, parameters=False)

    @property
    def module(self) -> nn.Module:
        return self.adapter.module

    @property
    def signature(self) -> Any:
        return self.adapter.signature

    @property
    def facts(self) -> Any:
        return self.adapter.facts

    @property
    def task(self) -> Any:
        return self.adapter.task

    @property
    def primary(self) -> str:
        """Natural name of the main input."""
        return str(self.examples.primary)

    @property
    def takes_tokens(self) -> bool:
        return self.primary == "input_ids"

    @property
    def loaded(self) -> LoadedModel:
        """The model as the engine and the exporter take it, without reading it a second time."""
        from torchstone.adapt.load import LoadedModel

        base = self.adapter.base
        name = type(base).__name__
        model = LoadedModel(base, self.config, target=name, class_name=name, fingerprint="")
        model.__dict__["adapter"] = self.adapter
        return model

    def batch(self, batch_size: int | None = None, length: int | None = None, seed: int = 0) -> Batch:
        """Example inputs on the model's device; the same arguments give the same values."""
        size = batch_size or self.plan.batch_size
        tokens: int | None = length if length is not None else self.plan.length
        if self.primary not in ("input_ids", "inputs_embeds"):
            tokens = None  # Images and sound have the size that the model wants.
        batch = self.examples.batch(size, length=tokens, seed=self.seed * 1009 + seed)
        if self.text_alone:
            batch = {self.primary: _plain_text(batch[self.primary], self.facts.reserved_ids)}
        return {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }

    @contextmanager
    def taken_apart(self) -> Iterator[None]:
        """Text alone for the length of the block, where images of all rows are packed into one axis.

        Such a batch cannot be cut by row or position without knowing the model's own layout.
        """
        self.text_alone = self.takes_tokens and self._is_packed() and self._answers_text_alone()
        try:
            yield
        finally:
            self.text_alone = False

    def _is_packed(self) -> bool:
        rows = 3  # a size that grids of two or four images do not have by chance
        values = [each for each in self.batch(rows).values() if isinstance(each, torch.Tensor) and each.dim()]
        return any(each.shape[0] != rows for each in values)

    def _answers_text_alone(self) -> bool:
        self.text_alone = True
        try:
            self.forward(self.batch(1))
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, ModelError):
            return False
        finally:
            self.text_alone = False
            self.state.restore()
        return True

    def forward(self, batch: Batch, *, train: bool = False, grad: bool = False, seed: int = 0) -> Output:
        """One call under a fixed random state; evaluation mode and no gradients unless asked."""
        with self.mode(train), torch.set_grad_enabled(grad):
            seed_everything(self.seed + seed)
            return self.adapter(**batch)

    def main(self, batch: Batch, **how: Any) -> Tensor:
        """The main tensor of `forward(batch)`."""
        return self.forward(batch, **how).main

    @contextmanager
    def mode(self, train: bool) -> Iterator[None]:
        """All modules in training or in evaluation mode; afterwards each as it was."""
        before = [(module, module.training) for module in self.module.modules()]
        try:
            self.module.train(train)
            yield
        finally:
            for module, training in before:
                module.training = training

    def passed(self, summary: str, **fields: Any) -> CheckResult:
        return self._result("pass", summary, fields)

    def warned(self, summary: str, **fields: Any) -> CheckResult:
        return self._result("warn", summary, fields)

    def failed(self, summary: str, **fields: Any) -> CheckResult:
        return self._result("fail", summary, fields)

    def skipped(self, why: str, **fields: Any) -> CheckResult:
        """The check does not apply, because."""
        return self._result("skip", f"skipped: {why}", {"why": why, **fields})

    def _result(self, status: Status, summary: str, fields: dict[str, Any]) -> CheckResult:
        assert self.current is not None
        return CheckResult(
            id=self.current.name, tier=self.current.tier, status=status, summary=summary, **fields
        )


def _plain_text(ids: Tensor, reserved: tuple[int, ...]) -> Tensor:
    """`ids` with placeholders of images and sounds replaced by an id that stands for text."""
    placeholders = torch.isin(ids, torch.tensor(reserved, dtype=ids.dtype, device=ids.device))
    plain = ids[~placeholders]
    return torch.where(placeholders, plain[0], ids) if plain.numel() else ids
