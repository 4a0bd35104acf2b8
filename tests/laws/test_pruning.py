"""Laws of every pruning method: what is promised is reached and kept, and nothing but weights is changed."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchstone.optim.config import OptimConfig, PruneConfig
from torchstone.optim.pruning.methods import METHODS, Evidence, Method
from torchstone.optim.pruning.pruner import Pruner, build_pruner
from torchstone.optim.pruning.ramp import RAMPS
from torchstone.optim.registry import OPTIMIZERS, build_optimizer
from torchstone.tracking.state_file import pack, unpack
from torchstone.train.step import Recipe, train_step
from torchstone.train.update import DeviceUpdate, Gradients, HostUpdate

each_method = pytest.mark.parametrize("method", METHODS, ids=METHODS.names())
TOTAL = 24
"""Optimizer steps of a run here."""


class Blocks(nn.Module):
    """Two blocks of attention-like and MLP-like matrices, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attention": nn.Linear(8, 8), "mlp": nn.Linear(8, 8)}) for _ in range(2)
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = x + torch.tanh(block["mlp"](torch.tanh(block["attention"](x))))
        return self.head(self.norm(x))


class Task:
    """Each id is followed by another one; a batch is ids."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def count(self, batch: Tensor) -> int:
        return batch.numel()

    def loss_sum(self, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.module(batch), (batch * 3 + 1) % 7, reduction="sum")

    def measure(self, batch: Tensor, observe: object = None) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(batch)}


class Run:
    """A training loop with a pruner, as the engine has it."""

    def __init__(self, method: str, optimizer: str = "adamw", update: Any = HostUpdate, **knobs: Any) -> None:
        torch.manual_seed(0)
        self.module = Blocks()
        self.optimizer = build_optimizer(
            self.module, OptimConfig(name=optimizer, learning_rate=0.01, weight_decay=0.1)
        )
        self.config = PruneConfig(method=method, **{"every": 4, "sparsity": 0.6, **knobs})
        self.pruner = build_pruner(
            self.module, self.optimizer, self.config, total_steps=TOTAL, optimizer_name=optimizer
        )
        gradients = Gradients(list(self.module.parameters()), 1.0)
        if self.pruner is not None:
            gradients.preparations.append(self.pruner.mask_gradients)
        if hasattr(self.optimizer, "prepare_gradients"):
            gradients.preparations.append(self.optimizer.prepare_gradients)
        if hasattr(self.optimizer, "observe_norm"):
            gradients.observers.append(self.optimizer.observe_norm)
        self.update = update(gradients)
        self.step = 0
        self.tokens = 0

    def steps(self, number: int, seen: Callable[[Pruner], None] = lambda pruner: None) -> Run:
        for _ in range(number):
            self.step += 1
            ids = torch.randint(7, (16,), generator=torch.Generator().manual_seed(self.step))
            outcome = train_step(
                [ids], Task(self.module), self.optimizer, 0.01, Recipe(self.update, nullcontext)
            )
            self.tokens += outcome.targets
            if self.pruner is not None:
                self.pruner.after_step(self.step, lambda made=outcome.update: made.was_made)
                seen(self.pruner)
        return self


def zeros(pruner: Pruner) -> int:
    return sum(int((each == 0).sum()) for each in pruner.weights.values())


@dataclass
class Watched:
    """A run past the end of its ramp, and what was seen on the way."""

    run: Run
    broken: list[str]
    returned: int


@functools.cache
def watched(method: str) -> Watched:
    """One run serves several laws: they only look."""
    run, broken, returned = Run(method), list[str](), 0
    before: dict[str, Tensor] = {}

    def look(pruner: Pruner) -> None:
        nonlocal returned
        pruner.require()
        for name, weight in pruner.weights.items():
            mask = pruner.masks[name]
            held = (weight.detach(), *run.optimizer.state[weight].values())
            if any(bool(each[mask == 0].any()) for each in held if each.shape == mask.shape):
                broken.append(f"{name} in step {run.step}")
            if name in before:
                returned += int(((before[name] == 0) & (mask == 1)).sum())
            before[name] = mask.clone()

    run.steps(TOTAL + 5, look)
    return Watched(run, broken, returned)


@each_method
def test_the_promised_sparsity_is_reached_exactly(method: Method) -> None:
    pruner = watched(method.name).run.pruner
    assert pruner is not None and pruner.total == 256
    assert zeros(pruner) == round(0.6 * 256)
    assert pruner.require() == {"prune/sparsity": pytest.approx(0.6, abs=1 / 256)}


@each_method
def test_pruned_weights_stay_zero_and_their_state_too(method: Method) -> None:
    assert watched(method.name).broken == []


@each_method
def test_masks_only_grow_unless_the_method_says_otherwise(method: Method) -> None:
    assert (watched(method.name).returned > 0) is method.regrows


@each_method
def test_resumes_bit_for_bit(method: Method, tmp_path: Path) -> None:
    run, twin = Run(method.name).steps(13), Run(method.name)
    assert run.pruner is not None and twin.pruner is not None
    structure, tensors = pack({"optimizer": run.optimizer.state_dict(), "pruner": run.pruner.state_dict()})
    save_file({name: each.contiguous().clone() for name, each in tensors.items()}, tmp_path / "state")
    state = unpack(json.loads(json.dumps(structure)), load_file(tmp_path / "state"))
    twin.module.load_state_dict(copy.deepcopy(run.module.state_dict()))
    twin.optimizer.load_state_dict(state["optimizer"])
    twin.pruner.load_state_dict(state["pruner"])
    twin.step = 13

    run.steps(TOTAL - 13)
    twin.steps(TOTAL - 13)
    for name, value in run.module.state_dict().items():
        assert torch.equal(value, twin.module.state_dict()[name]), name
    assert all(torch.equal(mask, twin.pruner.masks[name]) for name, mask in run.pruner.masks.items())


@functools.cache
def dense() -> Run:
    return Run("none").steps(TOTAL + 5)


@each_method
def test_nothing_but_weights_is_changed(method: Method) -> None:
    """Hyper-parameters and tokens are those of the same optimizer without pruning."""

    def settings(run: Run) -> list[dict[str, Any]]:
        groups = run.optimizer.param_groups
        return [{key: value for key, value in group.items() if key != "params"} for group in groups]

    plain, pruned = dense(), watched(method.name).run
    assert settings(plain) == settings(pruned)
    assert type(plain.optimizer) is type(pruned.optimizer)
    assert (plain.step, plain.tokens) == (pruned.step, pruned.tokens)


@each_method
def test_before_its_start_a_run_is_as_without_pruning(method: Method) -> None:
    plain, pruned = Run("none").steps(2), Run(method.name, start=0.25).steps(2)
    for name, value in plain.module.state_dict().items():
        assert torch.equal(value, pruned.module.state_dict()[name]), name


@each_method
@pytest.mark.parametrize("update", ["host", "device"])
def test_a_step_that_is_refused_prunes_nothing(method: Method, update: str) -> None:
    """Masks that were due then come with the next step that is made."""
    make = HostUpdate
    if update == "device":
        make = lambda gradients: DeviceUpdate(gradients, torch.device("cpu"), sticky=False)  # noqa: E731
    run = Run(method.name, update=make, start=0.0, end=0.5, every=100).steps(11)
    assert run.pruner is not None and run.pruner.plan.is_due(12)
    before = copy.deepcopy((run.module.state_dict(), run.pruner.state_dict()["memory"]))
    with torch.no_grad():
        run.module.norm.weight[0] = math.nan
    run.steps(1)
    with torch.no_grad():
        run.module.norm.weight.copy_(before[0]["norm.weight"])
    for name, value in run.module.state_dict().items():
        assert torch.equal(value, before[0][name]), name
    for name, kept in run.pruner.state_dict()["memory"].items():
        assert all(torch.equal(each, before[1][name][key]) for key, each in kept.items()), name
    run.steps(1)
    assert zeros(run.pruner) == round(0.6 * 256)


def test_masks_lost_by_a_rollback_are_made_again() -> None:
    """Also when the ramp had ended meanwhile."""
    run = Run("magnitude").steps(10)
    assert run.pruner is not None
    before = copy.deepcopy((run.module.state_dict(), run.optimizer.state_dict(), run.pruner.state_dict()))
    run.steps(10)
    assert run.step > run.pruner.plan.last
    run.module.load_state_dict(before[0])
    run.optimizer.load_state_dict(before[1])
    run.pruner.load_state_dict(before[2])
    run.steps(1)
    assert zeros(run.pruner) == round(0.6 * 256)


# Four weights of one tensor, by hand. w, m, v, and w at the start.
W = [1.0, -2.0, 0.5, -0.25]
M = [0.01, -0.02, -0.4, 0.0]
V = [1e-4, 4e-4, 0.04, 1e-12]
START = [0.5, -2.5, 0.6, -0.25]
MEAN_V = sum(V) / 4
STEADINESS = (0.25, 0.5, 1.0)

FORMULAS: dict[str, Callable[[float, float, float, float], float]] = {
    "magnitude": lambda w, m, v, s: abs(w),
    "movement": lambda w, m, v, s: s,  # what was summed
    "movement_displacement": lambda w, m, v, s: w * (w - s),
    "state": lambda w, m, v, s: abs(w) * (v / MEAN_V + 1e-3) ** 0.25,
    "bitter0": lambda w, m, v, s: abs(w * m) * abs(w) / (v**0.5 + 1e-8),
    "bitter1": lambda w, m, v, s: abs(w),
    "bitter2": lambda w, m, v, s: abs(w),
    "bitter3": lambda w, m, v, s: abs(w) * (abs(m) + 1e-8) ** 0.5,
    "bitter4": lambda w, m, v, s: abs(w) * (abs(m) + 1e-8) ** 0.5,
    "bitter5": lambda w, m, v, s: -math.copysign(1, w) * m / (v**0.5 + 1e-8) + 0.1 * abs(w),
    "bitter5_inverted_2025": lambda w, m, v, s: math.copysign(1, w) * m / (v**0.5 + 1e-8) + 0.1 * abs(w),
    "bitter6": lambda w, m, v, s: abs(w) * (abs(m) + 1e-8) ** 0.5 * (m**2 / (v + 1e-8)) ** 0.5,
    "bitter7_to_20251105": lambda w, m, v, s: abs(w) / (v**0.5 + 1e-6),
    "bitter7_from_20251106": lambda w, m, v, s: abs(w) * (abs(v) + 1e-8) ** 0.25,
    "bitter8_to_20251114": lambda w, m, v, s: abs(w) * (abs(m / 0.19) + 1e-8) ** 0.5,
    "bitter8_from_20251115": lambda w, m, v, s: abs(w) * (v + 1e-5) ** 0.25,
    "bitter9_to_20251114": lambda w, m, v, s: abs(w) * (abs(m) + 1e-8) ** 0.5 - 0.1 * w * (w - s),
    "bitter9_from_20251115": lambda w, m, v, s: abs(w) * (v + 1e-5) ** 0.25,
    "bitter10z": lambda w, m, v, s: abs(w) * (abs(m) + 1e-8) ** 0.5 * abs(m) / (v**0.5 + 1e-8),
    "bitter10s": lambda w, m, v, s: abs(w) * (abs(m) + 1e-8) ** 0.5 * 0.75 * 0.5 / 2.0,
    "bitter10c": lambda w, m, v, s: (
        abs(w) * (abs(m) + 1e-8) ** 0.5 * COSINE / (1 + sum(each**0.5 for each in V) / 4)
    ),
}
_WAY = [w - s for w, s in zip(W, START, strict=True)]
COSINE = max(0.0, -sum(m * d for m, d in zip(M, _WAY, strict=True))) / (
    sum(m * m for m in M) ** 0.5 * sum(d * d for d in _WAY) ** 0.5
)


@each_method
def test_scores_are_their_formula(method: Method) -> None:
    start = torch.tensor(START)
    memory = dict.fromkeys(("start", "summed", "snapshot"), start) | {"steadiness": torch.tensor(STEADINESS)}
    evidence = Evidence(
        torch.tensor(W), torch.tensor(M), torch.tensor(V), torch.tensor(0.19), epsilon=1e-3, memory=memory
    )
    expected = [FORMULAS[method.name](*each) for each in zip(W, M, V, START, strict=True)]
    scores = method.score(evidence)
    assert scores.tolist() == pytest.approx(expected, rel=1e-2 if "from_20251115" in method.name else 1e-4)
    assert scores.argsort().tolist() == sorted(range(4), key=lambda place: expected[place])


@each_method
def test_the_memory_is_what_is_stated(method: Method) -> None:
    run = watched(method.name).run
    assert run.pruner is not None
    for name, weight in run.pruner.weights.items():
        assert run.pruner.masks[name].element_size() == 1
        assert run.pruner.state_dict()["masks"][name].numel() == math.ceil(weight.numel() / 8)
        full = [each for each in run.pruner.memory[name].values() if each.shape == weight.shape]
        assert [each.element_size() for each in full] == ([4] if method.keeps else [])


@pytest.mark.parametrize("record", OPTIMIZERS, ids=OPTIMIZERS.names())
def test_every_optimizer_is_pruned(record: Any) -> None:
    """Also those that mix elements, where zeros must be put back after every step."""
    method = "state" if record.moments else "magnitude"
    run = Run(method, optimizer=record.name).steps(TOTAL + 3, lambda pruner: pruner.require() and None)
    assert run.pruner is not None and zeros(run.pruner) == round(0.6 * 256)


@pytest.mark.parametrize("ramp", RAMPS, ids=RAMPS.names())
def test_a_ramp_rises_from_nothing_to_all(ramp: Any) -> None:
    shares = [ramp.share(way / 50) for way in range(51)]
    assert shares[0] == 0.0 and shares[-1] == 1.0
    assert shares == sorted(shares)


def test_configuration_offers_what_is_registered() -> None:
    def choices(name: str) -> list[str]:
        extra = PruneConfig.model_fields[name].json_schema_extra
        assert isinstance(extra, dict)
        return list(extra["choices"])

    assert choices("method") == ["none", *METHODS.names()]
    assert choices("schedule") == RAMPS.names()
    assert FORMULAS.keys() == set(METHODS.names())
