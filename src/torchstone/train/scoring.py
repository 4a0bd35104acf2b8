"""What evaluation counts beside the means of a validation pass: per example, per byte, per class.

It is an observer of `validate`: it sees the logits of each batch as they pass, and nothing is computed twice.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone.data.token_bytes import TokenBytes, Unknown, token_bytes
from torchstone.train.losses import IGNORED, LossRule, loss_sum, num_correct

Numbers = np.ndarray[Any, np.dtype[np.float64]]
MOST_CLASSES = 1000
"""A table of classes against classes is kept up to so many."""


@dataclass(frozen=True, kw_only=True)
class ExampleScores:
    """What one model scored on each example, in the order of the data."""

    losses: Numbers
    """Sum over the targets of an example, nats (squared errors where the rule has them)."""
    correct: Numbers
    targets: Numbers
    bytes: Numbers | None
    """Of the text of the targets, where it is known."""
    units: np.ndarray[Any, Any]
    """The document (or block, or the example itself) that each example belongs to."""
    unit: str
    digest: str
    """Of all targets: two models with the same one were asked the same questions."""
    answers: Numbers | None = None
    """The likeliest class or the number that was predicted, where an example has one target."""
    asked: Numbers | None = None
    """That target."""


class Scores:
    """Sums per example, bytes of the targets, and counts per class."""

    def __init__(
        self, rule: LossRule, token_bytes: TokenBytes | None, by_class: bool, weights: Tensor | None
    ) -> None:
        self.rule = rule
        self.token_bytes = token_bytes
        self.by_class = by_class
        self.weights = weights
        self.losses: list[float] = []
        self.correct: list[int] = []
        self.targets: list[int] = []
        self.bytes: list[float] = []
        """NaN where they cannot be told."""
        self.classes: ClassCounts | None = None
        self.answers: list[float] = []
        self.asked: list[float] = []
        self._asked = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of the targets seen so far; how they were batched and padded does not matter."""
        return self._asked.hexdigest()

    def observe(self, logits: Tensor, batch: dict[str, Any]) -> None:
        for row in range(logits.shape[0]):
            own = {name: _row(value, row, logits.shape[0]) for name, value in batch.items()}
            self.losses.append(float(loss_sum(self.rule, logits[row : row + 1], own, self.weights)))
            correct = num_correct(self.rule, logits[row : row + 1], own)
            self.correct.append(0 if correct is None else int(correct))
            self.targets.append(self.rule.count(own))
            for name in self.rule.labels:
                labels = own[name][own[name] != IGNORED].cpu().contiguous()
                self._asked.update(f"{labels.numel()} {labels.dtype} ".encode())
                self._asked.update(labels.reshape(-1).view(torch.uint8).numpy().tobytes())
            if self.token_bytes is not None and self.rule.written is not None:
                told = self.token_bytes.count(*self.rule.written(own["labels"].cpu()))
                self.bytes.append(math.nan if told is None else told)
        aligned, targets = self.rule.align(logits, batch)
        if targets.dim() == 1:
            said = aligned if self.rule.is_squared else aligned.argmax(-1)
            self.answers += said.tolist()
            self.asked += targets.tolist()
        if self.by_class and aligned.shape[-1] <= MOST_CLASSES:
            self.classes = self.classes or ClassCounts(aligned.shape[-1])
            self.classes.add(aligned, targets)


def confidences(rule: LossRule, logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """(probability of the likeliest class, whether it is the true one) per target; None without classes."""
    if rule.is_squared:
        return None
    aligned, targets = rule.align(logits, batch)
    if targets.is_floating_point() or aligned.shape[-1] < 2:
        return None
    counted = targets != IGNORED
    top, said = aligned[counted].double().softmax(-1).max(-1)
    return top.cpu(), (said == targets[counted]).cpu()


def _row(value: Any, row: int, size: int) -> Any:
    return value[row : row + 1] if isinstance(value, Tensor) and value.shape[:1] == (size,) else value


class ClassCounts:
    """True and false positives and negatives of each class; one label per target, or several at once."""

    def __init__(self, num_classes: int) -> None:
        self.right = torch.zeros(num_classes, dtype=torch.long)
        self.said = torch.zeros(num_classes, dtype=torch.long)
        self.true = torch.zeros(num_classes, dtype=torch.long)
        self.exact: list[int] = []
        """Of examples with several labels: whether all of them were met."""

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """`logits` (..., K); `targets` (...) of class ids, or (..., K) of shares."""
        size = logits.shape[-1]
        if targets.is_floating_point():
            said, true = (logits > 0).reshape(-1, size), (targets > 0.5).reshape(-1, size)
            self.exact += [int(each) for each in (said == true).all(-1)]
        else:
            counted = targets != IGNORED
            eye = torch.eye(size, dtype=torch.bool, device=logits.device)
            said, true = eye[logits.argmax(-1)[counted]], eye[targets[counted]]
        self.right += (said & true).sum(0).cpu()
        self.said += said.sum(0).cpu()
        self.true += true.sum(0).cpu()

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Of each class that is true or was said somewhere."""
        rows = []
        for name, (right, said, true) in enumerate(
            zip(self.right.tolist(), self.said.tolist(), self.true.tolist(), strict=True)
        ):
            if not said + true:
                continue
            rows.append(
                {
                    "class": name,
                    "precision": right / said if said else 0.0,
                    "recall": right / true if true else 0.0,
                    "f1": 2 * right / (said + true),
                    "support": true,
                }
            )
        return rows

    @property
    def metrics(self) -> dict[str, float]:
        """Macro F1 is the plain mean over `per_class`."""
        rows = self.per_class
        found = {"macro_f1": sum(each["f1"] for each in rows) / max(len(rows), 1)}
        if self.exact:
            right, both = int(self.right.sum()), int((self.said + self.true).sum())
            found |= {
                "micro_f1": 2 * right / both if both else 0.0,
                "exact_match": sum(self.exact) / len(self.exact),
            }
        return found


def bytes_of_targets(rule: LossRule, tokenizer: Any, blocks: Any) -> TokenBytes | Unknown | None:
    """Bytes of the tokens that `rule` predicts; None where its targets make up no text."""
    return None if rule.written is None else token_bytes(tokenizer, blocks)


def bytes_in_validation(rule: LossRule, tokenizer: Any, blocks: Any, notes: list[str]) -> TokenBytes | None:
    """As `bytes_of_targets`, for a run: a tokenizer that cannot tell is noted; having none is no news."""
    told = bytes_of_targets(rule, tokenizer, blocks)
    if isinstance(told, Unknown) and tokenizer is not None:
        notes.append(f"val/bits_per_byte is unknown: {told.why}")
    return told if isinstance(told, TokenBytes) else None
