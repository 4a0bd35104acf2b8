"""Which chunked loss a model allows: its head left out, or its logits as they come.

The head is left out by letting its `forward` give back what comes in, for the length of a pass. That is
believed only after it gave the loss of the whole model on a real batch: one that caps or scales its logits
fails that test, and its loss is made from the logits instead, with the reason told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone._seeds import preserved_rng
from torchstone.train.chunked_loss import Scores, head_loss, logits_loss

if TYPE_CHECKING:
    from torchstone.train.objective import ModelObjective, Prepared

TOLERANCE = 1e-5
TOLERANCE_16_BIT = 1e-3
"""Relative; in 16 bits the order of additions may move a logit by a step."""


@dataclass(frozen=True)
class Split:
    """How the loss of one model is made by the chunk; `head` None: from its logits."""

    chunk: int
    head: nn.Linear | None = None
    num_outputs: int | None = None
    """Logits that the model gives, where the head has more rows; None: as many as it has."""

    def scores(self, given: Tensor, targets: Tensor) -> Scores:
        """`given`: hidden states where the head is left out, else logits; (..., C or V)."""
        rows, goal = given.reshape(-1, given.shape[-1]), targets.reshape(-1)
        if self.head is None:
            return logits_loss(rows, goal, self.chunk)
        return head_loss(rows, self.head.weight, self.head.bias, goal, self.chunk, self.num_outputs)


def choose_split(
    module: nn.Module,
    objective: ModelObjective,
    batch: Prepared,
    chunk: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> tuple[Split, str]:
    """The better way that holds on `batch`, and why it is not the best one (empty where it is).

    Three passes without gradients, in eval mode; modes and generators are afterwards as they were.
    """
    modes = [(each, each.training) for each in module.modules()]
    before = objective.split
    module.eval()
    try:
        with preserved_rng(), torch.no_grad(), autocast():
            return _choose(module, objective, batch, chunk)
    finally:
        objective.split = before
        for each, mode in modes:
            each.training = mode


def _choose(module: nn.Module, objective: ModelObjective, batch: Prepared, chunk: int) -> tuple[Split, str]:
    objective.split = None
    expected = float(objective.loss_sum(batch))
    seen: list[Tensor] = []

    def logits() -> Tensor:
        seen.append(objective.logits(batch)[0])
        return seen[0]

    head = find_head(module, logits)
    if head is None:
        return Split(chunk), "no plain linear layer makes the logits"
    objective.split = split = Split(chunk, head, seen[0].shape[-1])
    try:
        found = float(objective.loss_sum(batch))
    except Exception as error:  # a model may do anything to what it takes for logits
        told = str(error).partition("\n")[0]
        return Split(chunk), f"the model needs its logits: {type(error).__name__}: {told}"
    tolerance = TOLERANCE_16_BIT if seen[0].dtype.itemsize == 2 else TOLERANCE
    if not abs(found - expected) <= tolerance * abs(expected):
        return Split(
            chunk
        ), f"the model changes its logits: the loss is {expected:.6g}, without that {found:.6g}"
    return split, ""


@contextmanager
def left_out(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Inside, `head` gives back what comes in; the list is what came in."""
    seen: list[Tensor] = []

    def forward(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    head.forward = forward  # type: ignore[method-assign,assignment]
    try:
        yield seen
    finally:
        del head.forward


def find_head(module: nn.Module, run: Callable[[], Tensor]) -> nn.Linear | None:
    """The linear layer that ran last and is as wide as the logits that `run` gives, or is cut to them."""
    ran: list[nn.Linear] = []

    def note(layer: nn.Module, *_: Any) -> None:
        assert isinstance(layer, nn.Linear)
        ran.append(layer)

    handles = [each.register_forward_hook(note) for each in module.modules() if isinstance(each, nn.Linear)]
    try:
        logits = run()
    finally:
        for handle in handles:
            handle.remove()
    wide = [each for each in ran if each.out_features == logits.shape[-1]]
    if not wide and ran and ran[-1].out_features > logits.shape[-1]:
        wide = ran[-1:]  # rows beyond the vocabulary; whether it is so, the loss will tell
    # A head with a forward of its own (LoRA, quantisation) is more than its weight.
    if not wide or type(wide[-1]) is not nn.Linear or "forward" in vars(wide[-1]):
        return None
    return wide[-1]
