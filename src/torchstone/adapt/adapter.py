"""Any model as `Batch -> Output`: natural names in, a read output back, without touching the model's code.

`adapt(module)` reads the signature, the facts and the task once; a call then costs a few dictionary look-ups.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import nn

from torchstone.adapt.binding import Binding
from torchstone.adapt.examples import Examples
from torchstone.adapt.facts import ModelFacts, device_of, facts_of_config
from torchstone.adapt.measure import measure
from torchstone.adapt.output import Output, read_output
from torchstone.adapt.signature import Signature, read_signature
from torchstone.adapt.task_guess import TaskGuess, guess_task
from torchstone.data.task import TaskSpec


def adapt(module: nn.Module, config: Any = None, task: TaskSpec | str | None = None) -> Adapter:
    """Make `module` callable with a batch in natural names."""
    signature = read_signature(module)
    binding = Binding(module, signature)
    facts, behaviour = measure(binding, facts_of_config(module, config))
    return Adapter(binding, facts, _task(task, guess_task(binding.base, signature, facts, behaviour)))


class Adapter:
    """A model that takes what a user has and returns an `Output`."""

    def __init__(self, binding: Binding, facts: ModelFacts, task: tuple[TaskSpec | None, TaskGuess]) -> None:
        self.binding = binding
        self.module = binding.module
        self.base = binding.base
        """The model inside torch.compile, DataParallel and other wrappers."""
        self.signature: Signature = binding.signature
        self.facts = facts
        self.guess = task[1]
        """What the task was read from, and whether that is certain."""
        self.task: TaskSpec = task[0] or _spec(self.guess.kind, facts)

    def __call__(self, **batch: Any) -> Output:
        output = read_output(self.binding.call(batch), self.facts, self.task)
        if self.binding.labels_filled and "labels" not in batch:
            # The labels were ours, so the loss means nothing.
            output.loss = None
        return output

    def bind(self, batch: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` such that `adapter.module(*args, **kwargs)` is the forward pass of `batch`."""
        return self.binding.bind(batch)

    @cached_property
    def examples(self) -> Examples:
        return Examples(self.signature, self.facts, self.task, device_of(self.base))

    @property
    def dropped(self) -> tuple[str, ...]:
        """Natural names that came and that the model has no argument for."""
        return tuple(sorted(self.binding.dropped))

    @property
    def notes(self) -> tuple[str, ...]:
        return self.facts.notes

    @property
    def is_causal_lm(self) -> bool:
        return self.task.kind == "causal-lm"

    def __repr__(self) -> str:
        return f"Adapter({type(self.base).__name__}.{self.signature}, task={self.task.kind})"


def _task(given: TaskSpec | str | None, guess: TaskGuess) -> tuple[TaskSpec | None, TaskGuess]:
    if given is None:
        return None, guess
    spec = TaskSpec.from_name(given) if isinstance(given, str) else given
    return spec, TaskGuess(spec.kind, True, ("the user says so",))


def _spec(kind: str, facts: ModelFacts) -> TaskSpec:
    return TaskSpec(
        kind=kind,
        vocab_size=facts.vocab_size,
        num_classes=facts.num_classes if kind in ("classification", "token-classification") else None,
        max_length=facts.max_seq_len,
        pad_token_id=facts.pad_token_id,
    )
