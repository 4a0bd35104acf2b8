"""A loss for probing: what a short training step or a backward pass of a check descends on.

The real losses of training live in `train`; here only gradients and memorising matter, so targets are drawn,
fixed per batch, and every kind of output has one: language models predict their next token, others a drawn
class per position.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torchstone.adapt.output import Output
    from torchstone.checks.context import Batch, Context

_CLASSES = 8
_TOKEN_KINDS = ("causal-lm", "masked-lm", "seq2seq")
_CLASS_KINDS = ("classification", "token-classification", "question-answering")


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss on one fixed batch, and what a model that does not look at its input could reach."""

    loss: Callable[[Output], Tensor]
    blind_loss: float
    """Cross entropy of the best constant answer."""
    name: str


def objective(context: Context, batch: Batch, output: Output, seed: int = 0) -> Objective:
    """The objective for `batch`; `output` is one answer of the model to it and tells the shapes."""
    ids = batch.get("input_ids")
    logits = class_logits(context, output)
    if logits is None:
        return _drawn_features(output.main, seed)
    if (
        context.task.kind == "causal-lm"
        and isinstance(ids, Tensor)
        and logits.shape[1:2] == ids.shape[1:2]
        and ids.shape[1] > 1
    ):
        return _next_token(ids, logits.shape[-1])
    return _drawn_classes(logits, seed)


def class_logits(context: Context, output: Output) -> Tensor | None:
    """The scores over a vocabulary or over classes, where the model has such."""
    if context.task.kind in _TOKEN_KINDS:
        found = output.logits if output.logits is not None else None
        vocabulary = context.facts.vocab_size
        if found is None and output.main.shape[-1] >= (vocabulary or 2):
            found = output.main
        return found if found is not None and found.dim() == 3 and found.is_floating_point() else None
    named = output.main_name == "logits" or (output.main_name == "tensor" and output.logits is not None)
    if context.task.kind in _CLASS_KINDS or named:
        found = output.logits if output.logits is not None else output.main
        return found if found.dim() >= 2 and found.shape[-1] > 1 and found.is_floating_point() else None
    return None


def _next_token(ids: Tensor, classes: int) -> Objective:
    targets = ids[:, 1:].clamp(max=classes - 1)

    def loss(output: Output) -> Tensor:
        scores = output.logits if output.logits is not None else output.main
        return F.cross_entropy(scores[:, :-1].flatten(0, 1).float(), targets.flatten())

    return Objective(loss, _entropy(targets), "cross entropy of the next token")


def _drawn_classes(logits: Tensor, seed: int) -> Objective:
    targets = _draw(logits.shape[:-1], logits.shape[-1], seed, logits.device)

    def loss(output: Output) -> Tensor:
        scores = output.logits if output.logits is not None else output.main
        return F.cross_entropy(scores.reshape(-1, scores.shape[-1]).float(), targets.flatten())

    return Objective(loss, _entropy(targets), "cross entropy of drawn classes")


def _drawn_features(main: Tensor, seed: int) -> Objective:
    """No classes to score: a fixed drawn projection makes some, one target per row and position."""
    width = main.shape[-1]
    generator = torch.Generator().manual_seed(seed + 77)
    projection = torch.randn(width, _CLASSES, generator=generator).to(main.device) * (2.0 / math.sqrt(width))
    targets = _draw(main.shape[:-1], _CLASSES, seed, main.device)

    def loss(output: Output) -> Tensor:
        scores = output.main.float() @ projection
        return F.cross_entropy(scores.reshape(-1, _CLASSES), targets.flatten())

    return Objective(loss, _entropy(targets), "cross entropy of a drawn projection")


def _draw(shape: torch.Size, classes: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 31)
    return torch.randint(0, classes, tuple(shape), generator=generator).to(device)


def _entropy(targets: Tensor) -> float:
    _, counts = torch.unique(targets.cpu(), return_counts=True)
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.log()).sum())


def answers(output: Output) -> list[Tensor]:
    """Every floating tensor that the model gave back, caches left out."""
    found: list[Tensor] = []
    _collect(output.raw, found, output.past_key_values, 0)
    return found


def _collect(value: Any, found: list[Tensor], cache: Any, depth: int) -> None:
    if value is None or depth > 4 or (cache is not None and value is cache):
        return
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            found.append(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            _collect(each, found, cache, depth + 1)
    elif isinstance(value, (tuple, list)):
        for each in value:
            _collect(each, found, cache, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _collect(getattr(value, field.name), found, cache, depth + 1)


def spread(output: Output, seed: int = 0) -> Tensor:
    """One number that depends on every entry of every answer, for reachability by gradient."""
    generator = torch.Generator().manual_seed(seed + 5)
    total = output.main.new_zeros((), dtype=torch.float32)
    for answer in answers(output):
        if answer.requires_grad:
            weights = torch.randn(answer.shape, generator=generator).to(answer.device)
            total = total + (answer.float().nan_to_num(0.0, 0.0, 0.0) * weights).sum() / math.sqrt(
                answer.numel()
            )
    return total
