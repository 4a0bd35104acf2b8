"""Which keys and values a trained model needs: masks are learned, the model is not.

    circuit = find_circuit(model, rows, held_out=others, task=ts.TaskSpec.language_modeling())
    circuit.sparsity, circuit.faithfulness, circuit.kl
    with circuit.applied(model): ...         # the model with nothing but its circuit

Minimised is the divergence of the masked model from the whole one (or its own loss), plus `sparsity_weight`
times the share of channels that is open, so that what is not needed has a price. What is told is measured
behind it with hard masks, on data that the masks did not learn from where there is some.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone._errors import DataError, UsageError
from torchstone._seeds import preserved_rng
from torchstone.adapt.load import LoadedModel, load
from torchstone.data.dataset import as_dataset
from torchstone.data.loader import Loader
from torchstone.data.task import TaskSpec
from torchstone.nn.circuit import CircuitMasks, applied, sites
from torchstone.train.losses import IGNORED, LOSSES, loss_sum
from torchstone.train.objective import ModelObjective, Prepared, validation_batches
from torchstone.train.special_ids import special_ids


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """What is kept, and what the model is worth with nothing else."""

    kept: dict[str, Tensor]
    """`blocks.0.attention/keys` -> True where open: (H, D), or (H, 1) for masks per head."""
    sparsity: float
    """Share of the key and value channels that is closed."""
    loss: float
    """Nats per target of the circuit; next to it those of the whole model, and of one with all closed."""
    loss_whole: float
    loss_closed: float
    kl: float
    """KL(whole || circuit), nats per target."""
    agreement: float
    """Share of the targets for which both hold the same answer for the likeliest."""
    course: list[tuple[float, float]]
    """At each step what was minimised: divergence (or loss) per target, and the expected open share."""
    learned_from_same: bool
    """No held-out data was given: everything is measured on what the masks learned from."""

    @property
    def faithfulness(self) -> float:
        """(loss_closed - loss) / (loss_closed - loss_whole): 1 is all that keys and values are good for, 0
        nothing, above 1 where what was closed did harm; NaN if they are good for nothing."""
        worth = self.loss_closed - self.loss_whole
        return (self.loss_closed - self.loss) / worth if worth else math.nan

    def applied(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, `model` is its circuit."""
        found = sites(model)
        names = [f"{each.name}/{each.part}" for each in found]
        if names != list(self.kept):
            raise UsageError("the circuit is not one of this model", why=f"it has {', '.join(names)}")
        return applied(found, [self.kept[name].float() for name in names])


def find_circuit(
    model: nn.Module | LoadedModel,
    data: Any,
    *,
    held_out: Any = None,
    task: TaskSpec | str | None = None,
    per: str = "channel",
    objective: str = "kl",
    sparsity_weight: float = 0.1,
    steps: int = 500,
    learning_rate: float = 0.01,
    temperature: tuple[float, float] = (1.0, 0.1),
    batch_size: int = 8,
    seed: int = 0,
) -> Circuit:
    """Learn masks for `steps` optimizer steps (Adam); afterwards the model is to the bit what it was.

    `objective` is kl (stay what the model is) or loss (do the task well). `sparsity_weight` is in nats per
    target for all channels together. `temperature` falls linearly from its first to its last value.
    """
    if objective not in ("kl", "loss"):
        raise UsageError(f"objective {objective!r} is unknown", next="objective='kl' or 'loss'")
    loaded = model if isinstance(model, LoadedModel) else load(model, task=task)
    said = TaskSpec.from_name(task) if isinstance(task, str) else task or loaded.task
    scored = _Scored(loaded, said)
    masks = CircuitMasks(sites(loaded.module), per)
    batches = scored.batches(data, batch_size, seed)
    with preserved_rng(), _frozen(loaded.module):
        course = _learn(masks, scored, batches, objective, sparsity_weight, steps, learning_rate, temperature)
        judged = batches if held_out is None else scored.batches(held_out, batch_size, seed)
        measured = _measure(masks, scored, judged)
    kept = masks.kept()
    wide = [k.expand(s.num_heads, s.head_width) for k, s in zip(kept, masks.sites, strict=True)]
    return Circuit(
        kept={f"{s.name}/{s.part}": k for s, k in zip(masks.sites, kept, strict=True)},
        sparsity=1 - sum(int(each.sum()) for each in wide) / sum(each.numel() for each in wide),
        course=course,
        learned_from_same=held_out is None,
        **measured,
    )


class _Scored:
    """A model with its data as what is compared: logits (N, K) of the targets that count."""

    def __init__(self, loaded: LoadedModel, task: TaskSpec) -> None:
        self.task = task
        self.rule = LOSSES.get(task.kind)
        if self.rule.is_squared:
            raise UsageError(f"a circuit needs a task with classes or tokens, not {task.kind}")
        device = next(loaded.module.parameters()).device
        ids = special_ids(task.kind, loaded.facts, None, loaded.config, notes=[])
        size = task.num_classes if task.num_classes is not None else loaded.facts.vocab_size
        self.objective = ModelObjective(
            loaded.adapter, self.rule, ids, device, size, model_config=loaded.config
        )

    def batches(self, data: Any, batch_size: int, seed: int) -> list[Prepared]:
        loader = Loader(as_dataset(data, self.task, None), batch_size, seed, shuffle=True, task=self.task)
        found = list(validation_batches((batch for batch, _ in loader), self.objective))
        if not sum(each.targets for each in found):
            raise DataError("the data has no target to score", why="no label counts")
        return found

    def __call__(self, batch: Prepared) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the counted targets, and the sum of the losses."""
        logits, _ = self.objective.logits(batch)
        aligned, targets = self.rule.align(logits, batch.labels)
        if targets.is_floating_point():
            raise UsageError("a circuit of a task with several labels per example is not offered")
        counted = targets != IGNORED
        return F.log_softmax(aligned[counted].float(), dim=-1), loss_sum(self.rule, logits, batch.labels)


def _learn(
    masks: CircuitMasks,
    scored: _Scored,
    batches: Sequence[Prepared],
    objective: str,
    sparsity_weight: float,
    steps: int,
    learning_rate: float,
    temperature: tuple[float, float],
) -> list[tuple[float, float]]:
    optimizer = torch.optim.Adam(masks.parameters(), lr=learning_rate)
    course = []
    turns = itertools.cycle([batch for batch in batches if batch.targets])
    for step in range(steps):
        batch = next(turns)
        first, last = temperature
        now = first + (last - first) * step / max(1, steps - 1)
        with applied(masks.sites, masks(now)):
            found, away = scored(batch)
        if objective == "kl":
            with torch.no_grad():
                whole, _ = scored(batch)
            away = _divergence(whole, found)
        away = away / batch.targets
        share = masks.expected_share(now)
        optimizer.zero_grad()
        torch.autograd.backward(away + sparsity_weight * share)
        optimizer.step()
        course.append((float(away.detach()), float(share.detach())))
    return course


@torch.no_grad()
def _measure(masks: CircuitMasks, scored: _Scored, batches: Sequence[Prepared]) -> dict[str, float]:
    kept = [each.float() for each in masks.kept()]
    closed = [torch.zeros_like(each) for each in kept]
    sums = dict.fromkeys(("loss", "loss_whole", "loss_closed", "kl", "agreement"), 0.0)
    for batch in batches:
        whole, loss = scored(batch)
        sums["loss_whole"] += float(loss)
        with applied(masks.sites, closed):
            sums["loss_closed"] += float(scored(batch)[1])
        with applied(masks.sites, kept):
            found, loss = scored(batch)
        sums["loss"] += float(loss)
        sums["kl"] += float(_divergence(whole, found))
        sums["agreement"] += float((whole.argmax(-1) == found.argmax(-1)).sum())
    targets = sum(batch.targets for batch in batches)
    return {name: total / targets for name, total in sums.items()}


def _divergence(whole: Tensor, found: Tensor) -> Tensor:
    """KL(whole || found), summed over the targets."""
    return F.kl_div(found, whole, reduction="sum", log_target=True)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Without dropout, and with weights that get no gradient; both are put back."""
    modes = [(each, each.training) for each in module.modules()]
    asked = [(each, each.requires_grad) for each in module.parameters()]
    module.eval()
    for each, _ in asked:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for each, wanted in asked:
            each.requires_grad_(wanted)
