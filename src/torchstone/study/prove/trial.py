"""The short life of a small twin: built, looked at, trained for a few steps, saved, resumed.

Every parameter gets values that follow from its name and shape alone, so that arms agree in whatever they
share, whoever their parents are, and a gate that begins closed is open. In double precision, where what
differs in the last digits only was computed in another order and what differs more is another function.
"""

from __future__ import annotations

import copy
import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchstone._errors import TorchstoneError
from torchstone._seeds import preserved_rng
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.binding import Binding
from torchstone.adapt.load import LoadedModel
from torchstone.checks.run import check
from torchstone.config.resolve import Resolved
from torchstone.data.dataset import Dataset, as_dataset
from torchstone.data.loader import Loader
from torchstone.data.pack import TokenBlocks
from torchstone.optim.pruning.targets import prunable
from torchstone.study.prove.bench import Bench
from torchstone.study.prove.twin import MICRO_STEPS, ROWS, SAVED_AT, SPIKED_AT, TOKENS, UPDATES
from torchstone.tracking.checkpoint import open_checkpoint
from torchstone.tracking.records import CheckResult
from torchstone.train.engine import Engine
from torchstone.train.losses import SpecialIds
from torchstone.train.subject import Subject

CHECKS = (
    "causal-leak",
    "batch-leak",
    "state-leak",
    "eval-determinism",
    "cache-parity",
    "unregistered-parameters",
)
_AFFORDABLE_TOKENS = 100
"""Per probe of a check: whole blocks of 32 are crossed, and the plan is the same for every arm."""
_SPIKE = 1000.0
"""What the loss of one step is multiplied with, so that clipping and what waits for spikes has work to do."""
_ROUNDINGS = 64
"""A gradient of so many rounding errors of the largest one is no gradient."""
_SPREAD = 0.1
"""Of what is drawn for vectors and scalars, around what they begin with."""


@dataclass(kw_only=True)
class Trial:
    """What was seen of one twin. Parts that broke are in `broken`; what needs them is not known."""

    parameters: dict[str, Tensor] = field(default_factory=dict)
    """As the model itself begins, by name; before they were drawn alike."""
    output: Tensor | None = None
    """In evaluation, of a fixed batch."""
    start_output: Tensor | None = None
    """The same with the parameters that it begins with."""
    silent: list[str] = field(default_factory=list)
    """Parameters without gradient."""
    faint: list[str] = field(default_factory=list)
    """Parameters with one that rounding makes, as of a bias before batch norm, which takes it out again."""
    drawn: dict[str, Tensor] = field(default_factory=dict)
    """The parameters that it was trained from."""
    trained: dict[str, Tensor] = field(default_factory=dict)
    """After the last optimizer step."""
    still: list[str] = field(default_factory=list)
    """Parameters that no step moved."""
    losses: list[float] = field(default_factory=list)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Parameter -> the options of its group in the optimizer."""
    optimizer: str = ""
    """Class of the optimizer."""
    rates: list[float] = field(default_factory=list)
    """Learning rate of each step, as the optimizer had it."""
    states: dict[str, list[float]] = field(default_factory=dict)
    """Entry of the optimizer's state -> its size after each step."""
    sparsity: float | None = None
    """Share of zeros among the weights that `prune.*` speaks of, after the last step."""
    data: str = ""
    """Hash of the batches that were fed."""
    checks: list[CheckResult] = field(default_factory=list)
    resumed: str = ""
    """Where a resumed run differs from the one that was not stopped; empty: nowhere."""
    broken: dict[str, Exception] = field(default_factory=dict)
    """Part of the life (build, output, checks, gradient, training, resume) -> what it raised."""
    seconds: float = 0.0


Examined = dict[str, list[CheckResult]]
"""Model, as `Bench.model_of` names it -> what the checks found in it."""


def try_out(arm: str, settings: Resolved, bench: Bench, examined: Examined | None = None) -> Trial:
    """Live through the twin of `arm`; never raises for what the model does wrong.

    `examined` is filled, and spares the checks where another arm has the same model.
    """
    trial = Trial()

    def part(name: str, act: Callable[[], object]) -> bool:
        if trial.broken:
            return False
        try:
            act()
        except Exception as error:
            trial.broken[name] = error
        return name not in trial.broken

    def build() -> None:
        loaded = bench.load(arm, settings)
        sharpen(loaded)
        trial.parameters = _copied(loaded.module)
        life.append(_Life(arm, settings, bench, trial, loaded))

    life: list[_Life] = []
    if not part("build", build):
        return trial
    with tempfile.TemporaryDirectory(prefix="torchstone-twin-") as folder, preserved_rng(0):
        part("output", life[0].look)
        part("checks", lambda: life[0].examine({} if examined is None else examined))
        part("training", lambda: life[0].train(Path(folder) / "whole"))
        part("resume", lambda: life[0].resume(Path(folder)))
    return trial


class _Life:
    """One twin, from birth to its second life."""

    def __init__(self, arm: str, settings: Resolved, bench: Bench, trial: Trial, loaded: LoadedModel) -> None:
        self.arm, self.settings, self.bench, self.trial, self.loaded = arm, settings, bench, trial, loaded

    def look(self) -> None:
        """The function that the model is."""
        self.trial.start_output = evaluated(self.loaded)
        draw_alike(self.loaded.module)
        self.trial.output = evaluated(self.loaded)

    def examine(self, examined: Examined) -> None:
        model = self.bench.model_of(self.arm, self.settings)
        if model not in examined:
            parameters = sum(each.numel() for each in self.loaded.module.parameters())
            budget_s = _AFFORDABLE_TOKENS * 200 * 2 * parameters / 6e10
            examined[model] = check(self.loaded, only=CHECKS, budget_s=budget_s).checks
        self.trial.checks = examined[model]

    def train(self, folder: Path) -> None:
        trial, module = self.trial, self.loaded.module
        self.reserve = copy.deepcopy(module)
        before = trial.drawn = _copied(module)
        engine = self._engine(self.loaded.adapter, module, folder, None)
        trial.optimizer = type(engine.optimizer).__name__
        trial.options = _options(engine.optimizer, module)
        trial.data = _hashed(engine)
        trial.silent, trial.faint = _unreached(engine, module)
        spy = _Spy(engine, trial)
        engine.run()
        spy.close()
        trial.trained = _copied(module)
        trial.still = [name for name, value in trial.trained.items() if torch.equal(value, before[name])]
        trial.sparsity = _sparsity(module, self.settings)
        self.state = engine.optimizer.state_dict()["state"]

    def resume(self, folder: Path) -> None:
        """From the checkpoint in the middle, with a model that was never trained."""
        kept = f"checkpoints/step-{SAVED_AT}"
        shutil.copytree(folder / "whole" / kept, folder / "resumed" / kept)
        found = open_checkpoint(folder / "resumed" / kept)
        known = self.loaded.adapter
        binding = Binding(self.reserve, known.signature)
        adapter = Adapter(binding, known.facts, (known.task, known.guess))
        engine = self._engine(adapter, self.reserve, folder / "resumed", found)
        engine.saver = None
        engine.run()
        self.trial.resumed = _difference(self.trial.trained, _copied(self.reserve)) or _state_difference(
            self.state, engine.optimizer.state_dict()["state"]
        )

    # --- how ------------------------------------------------------------------------------------

    def _engine(self, adapter: Any, module: nn.Module, folder: Path, found: Any) -> Engine:
        loop = self.settings.train
        dataset = _examples(self.loaded, _length(self.loaded))
        subject = Subject(
            module=module,
            forward=adapter,
            task=self.loaded.task,
            ids=SpecialIds(vocab_size=self.loaded.facts.vocab_size),
            model={"target": "twin", "config": self.loaded.config},
            batches=Loader(dataset, loop.batch_size, loop.random_seed),
            validation=None,
            device=torch.device("cpu"),
        )
        engine = self.bench.engine(self.arm, subject, self.settings, folder, found)
        engine.objective = _Spiked(engine.objective, lambda: engine.progress.step == SPIKED_AT)
        return engine


class _Spiked:
    """An objective whose loss is far too large in one step."""

    def __init__(self, objective: Any, now: Callable[[], bool]) -> None:
        self.objective, self.now = objective, now

    def count(self, batch: Any) -> int:
        return int(self.objective.count(batch))

    def loss_sum(self, batch: Any) -> Tensor:
        loss: Tensor = self.objective.loss_sum(batch)
        return loss * _SPIKE if self.now() else loss

    def measure(self, batch: Any, observe: Any = None) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = self.objective.measure(batch, observe)
        return scores | {"loss": scores["loss"] * _SPIKE} if self.now() else scores


def sharpen(loaded: LoadedModel) -> None:
    """Double precision, for models of tokens; one that takes images or sound stays as its inputs are."""
    if loaded.task.kind == "causal-lm":
        loaded.module.double()


def evaluated(loaded: LoadedModel) -> Tensor:
    """Main output for a fixed batch, in evaluation."""
    batch = loaded.adapter.examples.batch(ROWS, length=_length(loaded), seed=3)
    module = loaded.module.eval()
    with torch.no_grad():
        output = loaded.adapter(**batch)
    module.train()
    main = output.logits if output.logits is not None else output.main
    assert main is not None
    return main.detach().clone()


def _length(loaded: LoadedModel) -> int:
    return min(loaded.facts.max_seq_len or TOKENS, TOKENS)


# --- parameters that agree between arms ---------------------------------------------------------


def draw_alike(module: nn.Module) -> None:
    """Give each parameter values that follow from its name, its shape and what kind of beginning it has."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            shape = tuple(parameter.shape)
            seed = int.from_bytes(hashlib.sha256(f"{name} {shape}".encode()).digest()[:6], "little")
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            if parameter.dim() >= 2:
                parameter.copy_(noise / math.sqrt(max(parameter[0].numel(), 1)))
            else:
                parameter.add_(_SPREAD * noise)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in module.named_parameters()}


# --- data ---------------------------------------------------------------------------------------


def _examples(loaded: LoadedModel, length: int) -> Dataset:
    """Enough examples of what the model takes for a whole life, the same for all arms of the same sizes."""
    rows = ROWS * MICRO_STEPS * UPDATES
    if loaded.task.kind == "causal-lm":
        assert loaded.facts.vocab_size is not None
        draw = np.random.default_rng(5)
        tokens = draw.integers(0, loaded.facts.vocab_size, size=rows * length).astype(np.int64)
        return TokenBlocks(tokens, length)
    batch = loaded.adapter.examples.batch(rows, length=length, seed=5)
    classes = loaded.task.num_classes or loaded.facts.num_classes
    if loaded.task.kind not in ("classification", "vision") or classes is None:
        raise TorchstoneError(
            f"the proof cannot train a model for {loaded.task.kind}",
            why="it makes examples for causal-lm, classification and vision",
        )
    labels = torch.arange(rows) % classes
    return as_dataset(
        [
            {**{name: value[row] for name, value in batch.items()}, "labels": labels[row]}
            for row in range(rows)
        ],
        task=loaded.task,
    )


def _hashed(engine: Engine) -> str:
    digest = hashlib.sha256()
    with preserved_rng():
        for batch, _ in engine.batches:
            for name, value in sorted(batch.labels.items()):
                if isinstance(value, Tensor):
                    digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sparsity(module: nn.Module, settings: Resolved) -> float | None:
    """Counted in the weights themselves, whoever was to make them zero."""
    if settings.prune.method == "none":
        return None
    weights = prunable(module, settings.prune).values()
    zeros = sum(each.numel() - int(each.count_nonzero()) for each in weights)
    return zeros / sum(each.numel() for each in weights)


# --- gradients and the optimizer ----------------------------------------------------------------


def _unreached(engine: Engine, module: nn.Module) -> tuple[list[str], list[str]]:
    """(without gradient, with nothing but rounding) after the loss of two micro-batches."""
    with preserved_rng(0):
        module.train()
        for batch, _ in list(engine.batches)[:MICRO_STEPS]:
            engine.objective.loss_sum(batch).backward()  # type: ignore[no-untyped-call]
        learning = {name: each for name, each in module.named_parameters() if each.requires_grad}
        sizes = {
            name: 0.0 if each.grad is None else float(each.grad.abs().max())
            for name, each in learning.items()
        }
        for each in module.parameters():
            each.grad = None
    largest = max(sizes.values(), default=0.0)
    faint = [
        name
        for name, size in sizes.items()
        if 0.0 < size <= _ROUNDINGS * torch.finfo(learning[name].dtype).eps * largest
    ]
    return [name for name, size in sizes.items() if size == 0.0], faint


def _options(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, dict[str, Any]]:
    """Parameter -> options of its group; one that the optimizer does not hold is left out."""
    names = {id(each): name for name, each in module.named_parameters()}
    found: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        found |= {names[id(each)]: options for each in group["params"] if id(each) in names}
    return found


class _Spy:
    """Notes after each step what the optimizer holds: sums of absolute values, by entry of its state."""

    def __init__(self, engine: Engine, trial: Trial) -> None:
        self.optimizer, self.trial = engine.optimizer, trial
        self._rates: list[float] = []
        self._hook = self.optimizer.register_step_post_hook(self._note_rate)
        engine.log_row = self._note

    def _note_rate(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # An optimizer that warms up by itself has put the schedule's rate back by now.
        self._rates.append(float(getattr(optimizer, "rate_taken", optimizer.param_groups[0]["lr"])))

    def _note(self, step: int, row: Mapping[str, float]) -> None:
        if "train/loss" not in row:
            return
        self.trial.losses.append(row["train/loss"])
        self.trial.rates += self._rates[:1]
        self._rates.clear()
        for name, total in self._totals().items():
            self.trial.states.setdefault(name, []).append(total)

    def _totals(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for entries in self.optimizer.state.values():
            for name, value in entries.items():
                totals[name] = totals.get(name, 0.0) + _size(value)
        counters = [*self.optimizer.param_groups, vars(self.optimizer)]
        for holder in counters:
            for name, value in holder.items():
                if name not in ("params", "lr", "state") and isinstance(value, int | float | Tensor):
                    totals.setdefault(name.strip("_"), _size(value))
        return totals

    def close(self) -> None:
        self._hook.remove()


def _size(value: Any) -> float:
    if isinstance(value, Tensor):
        return float(value.detach().double().abs().sum())
    return float(value) if isinstance(value, int | float) else 0.0


# --- equal in every bit -------------------------------------------------------------------------


def _difference(whole: Mapping[str, Tensor], resumed: Mapping[str, Tensor]) -> str:
    for name, value in whole.items():
        if not torch.equal(value, resumed[name]):
            return f"{name} by {float((value - resumed[name]).abs().max()):.1e}"
    return ""


def _state_difference(whole: Mapping[Any, Any], resumed: Mapping[Any, Any]) -> str:
    for place, entries in whole.items():
        for name, value in entries.items():
            other = resumed.get(place, {}).get(name)
            same = torch.equal(value, other) if isinstance(value, Tensor) else value == other
            if not same:
                return f"{name} in the optimizer's state"
    return ""
