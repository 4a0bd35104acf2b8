"""What a lower precision gives on this machine: `amp_speedup`, measured and never assumed.

    found = amp_speedup(model, rows)
    found["speedup"], found["interval"], found["loss"]

Two copies of the model take the engine's own steps on the same batches, one step of each in turn, so that
whatever else the machine does slows both. A speed-up below 1 is told as such.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import ModelError, UsageError
from torchstone._seeds import seed_everything
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.binding import Binding
from torchstone.data.dataset import as_dataset
from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import build_optimizer
from torchstone.train.device import bring, choose_device
from torchstone.train.losses import LOSSES
from torchstone.train.objective import ModelObjective
from torchstone.train.precision import autocast_of, require_usable
from torchstone.train.special_ids import special_ids
from torchstone.train.step import Recipe, train_step
from torchstone.train.update import Gradients, HostUpdate, ScaledUpdate

if TYPE_CHECKING:
    from torch import nn

    from torchstone.adapt.load import LoadedModel

ROUNDS = 15
WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """fp32 against a lower precision, over whole optimizer steps."""

    precision: str
    device: str
    speedup: float
    """Median over the rounds of fp32 time / lower precision's time; below 1: it is slower."""
    interval: tuple[float, float]
    """Of that median, from order statistics, at least 95 %."""
    seconds: tuple[float, float]
    """Median of a step, fp32 and lower precision."""
    losses: tuple[tuple[float, ...], tuple[float, ...]]
    """Of each step, fp32 and lower precision."""

    @property
    def drift(self) -> float:
        """Largest difference of the losses, relative to those of fp32; infinite if one is not finite."""
        exact, rounded = self.losses
        if not all(map(math.isfinite, (*exact, *rounded))):
            return math.inf
        return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(exact, rounded, strict=True))


def amp_speedup(
    model: LoadedModel,
    rows: Sequence[Any],
    *,
    precision: str = "bf16",
    batch_size: int = 4,
    learning_rate: float = 1e-3,
    rounds: int = ROUNDS,
    device: str | None = None,
    seed: int = 0,
) -> Speedup:
    """Measure on copies; `model` stays as it is. A model that cannot be copied is a ModelError."""
    where = choose_device(device)
    if precision not in ("bf16", "fp16", "tf32"):
        raise UsageError(f"{precision!r} is no lower precision", next="bf16, fp16 or tf32")
    require_usable(precision, where)
    dataset = as_dataset(list(rows), model.task)
    batches = [
        dataset.batch([(turn * batch_size + place) % len(rows) for place in range(batch_size)])
        for turn in range(rounds + WARM_UP)
    ]
    learners = [_Learner(model, each, where, learning_rate) for each in ("fp32", precision)]
    for turn, batch in enumerate(batches):
        for place in (0, 1) if turn % 2 else (1, 0):
            seed_everything(seed + turn)
            learners[place].step(batch)
    exact, rounded = (each.seconds[WARM_UP:] for each in learners)
    ratios = sorted(a / b for a, b in zip(exact, rounded, strict=True))
    return Speedup(
        precision=precision,
        device=str(where),
        speedup=median(ratios),
        interval=median_interval(ratios),
        seconds=(median(exact), median(rounded)),
        losses=(tuple(learners[0].losses), tuple(learners[1].losses)),
    )


def median_interval(ordered: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The narrowest pair of order statistics that holds the median of any distribution with this probability.

    The number of draws below the median is binomial(n, 1/2) (Conover 1999, section 3.2).
    """
    n, below, outside = len(ordered), 0.0, (1 - level) / 2
    place = 0
    while place < n // 2:
        below += math.comb(n, place) / 2**n
        if below > outside:
            break
        place += 1
    place = max(place - 1, 0)
    return ordered[place], ordered[n - 1 - place]


class _Learner:
    """A copy of the model that takes steps in one precision."""

    def __init__(
        self, model: LoadedModel, precision: str, device: torch.device, learning_rate: float
    ) -> None:
        try:
            module: nn.Module = copy.deepcopy(model.module)
        except Exception as error:  # whatever a stranger's module raises
            raise ModelError("the model cannot be copied", why=f"{type(error).__name__}: {error}") from error
        bring(module, device)
        module.train()
        known = model.adapter
        adapter = Adapter(Binding(module, known.signature), known.facts, (known.task, known.guess))
        self.device, self.precision, self.learning_rate = device, precision, learning_rate
        self.optimizer = build_optimizer(module, OptimConfig(learning_rate=learning_rate))
        gradients = Gradients([each for each in module.parameters() if each.requires_grad], 1.0)
        self.recipe = Recipe(
            ScaledUpdate(gradients, device) if precision == "fp16" else HostUpdate(gradients),
            autocast_of(precision, device) if precision != "fp32" else nullcontext,
        )
        task = model.task
        self.objective = ModelObjective(
            adapter,
            LOSSES.get(task.kind),
            special_ids(task.kind, model.facts, None, model.config, notes=[]),
            device,
            task.num_classes if task.num_classes is not None else model.facts.vocab_size,
            model_config=model.config,
        )
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, batch: dict[str, Any]) -> None:
        prepared = self.objective.prepare(batch)
        began = time.perf_counter()
        taken = train_step([prepared], self.objective, self.optimizer, self.learning_rate, self.recipe)
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        self.seconds.append(time.perf_counter() - began)
        self.losses.append(taken.total("loss") / max(taken.targets, 1))
