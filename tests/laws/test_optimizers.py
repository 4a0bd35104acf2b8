"""Laws of every registered optimizer: it is what its source says, descends, resumes bit for bit, never waits.

a new optimizer: one file, one record, one reference in tests/optim/reference.py
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from optim.reference import REFERENCES, Parameter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from torchstone.optim import element_clip
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import parameter_roles
from torchstone.optim.registry import OPTIMIZERS, OptimizerRecord, build_optimizer
from torchstone.optim.structure import part_of
from torchstone.tracking.state_file import pack, unpack
from torchstone.train.space import state_after_a_step
from torchstone.train.update import DeviceUpdate, Gradients, HostUpdate, ScaledUpdate, Update

each_optimizer = pytest.mark.parametrize("record", OPTIMIZERS, ids=OPTIMIZERS.names())

SHORT: dict[str, dict[str, Any]] = {
    "adamwspam": {"spam_interval": 30, "spam_warmup": 8, "spam_theta": 9.0, "amsgrad": True},
    "spam": {"spam_interval": 40, "spam_warmup": 8, "spam_theta": 9.0},
    "sgd": {"nesterov": True},
}
"""Knobs that let 50 steps see a reset, a warm-up, spikes."""

TOLERANCE = {"muon": 0.03}
"""Of the way that a weight went. torch's Muon iterates in bfloat16; all others compute in float64 here."""


class Small(nn.Module):
    """Something of every role: embedding, hidden matrices, norm, biases, output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.wide = nn.Linear(6, 10)
        self.norm = nn.LayerNorm(10)
        self.narrow = nn.Linear(10, 4)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.narrow(self.norm(torch.tanh(self.wide(self.embedding(ids)))))))


def config_for(record: OptimizerRecord, **knobs: Any) -> OptimConfig:
    return OptimConfig(name=record.name, **{"learning_rate": 0.02, **knobs})


def train(module: nn.Module, optimizer: torch.optim.Optimizer, number: int, update: Any = None) -> float:
    """Steps on a fixed task; the last loss."""
    ids = torch.arange(40) % 5
    targets = (ids * 2 + 1) % 3
    loss = torch.zeros(())
    for _ in range(number):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(ids), targets)
        loss.backward()
        optimizer.step() if update is None else update.apply(optimizer, [loss.detach()])
    return float(loss.detach())


def gradients_of(module: nn.Module, step: int) -> None:
    """Noise with a history: scales differ, some elements learn late, one spikes, and once all do."""
    generator = torch.Generator().manual_seed(step)
    for number, each in enumerate(module.parameters()):
        gradient = torch.randn(each.shape, generator=generator, dtype=torch.float64) * 10.0 ** -(number % 3)
        if step < 12:
            gradient.view(-1)[:2] = 0.0
        if step % 9 == 8:
            gradient.view(-1)[-1] *= 1e4
        each.grad = (gradient * (40.0 if step == 26 else 1.0)).to(each.dtype)


@each_optimizer
def test_equals_its_reference(record: OptimizerRecord) -> None:
    torch.manual_seed(0)
    module = Small().double()
    config = config_for(record, weight_decay=0.1, **SHORT.get(record.name, {}))
    optimizer, reference = build_optimizer(module, config), REFERENCES[record.name](config)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    roles = parameter_roles(module)
    twins = {
        name: Parameter(
            value.clone(),
            decay=0.1 if roles[name] == "matrix" else 0.0,
            is_matrix=roles[name] == "matrix" and part_of(name) != "head",
        )
        for name, value in before.items()
    }
    for step in range(50):
        gradients_of(module, step)
        for name, value in module.named_parameters():
            twins[name].gradient = value.grad.clone()
        optimizer.step()
        reference.update(list(twins.values()))
    for name, value in module.named_parameters():
        way = (twins[name].value - before[name]).abs().max()
        error = (value.detach() - twins[name].value).abs().max()
        assert way > 1e-3 and error <= TOLERANCE.get(record.name, 1e-6) * way, (name, way, error)


@each_optimizer
def test_descends(record: OptimizerRecord) -> None:
    torch.manual_seed(0)
    module = Small()
    optimizer = build_optimizer(module, config_for(record))
    before = train(module, optimizer, 1)
    assert train(module, optimizer, 120) < 0.5 * before


@each_optimizer
def test_resumes_bit_for_bit(record: OptimizerRecord, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Small()
    config = config_for(record, **SHORT.get(record.name, {}))
    optimizer = build_optimizer(module, config)
    train(module, optimizer, 27)

    # Through files, as in a checkpoint.
    structure, tensors = pack(optimizer.state_dict())
    save_file({name: each.clone() for name, each in tensors.items()}, tmp_path / "state.safetensors")
    state = unpack(json.loads(json.dumps(structure)), load_file(tmp_path / "state.safetensors"))
    twin = copy.deepcopy(module)
    resumed = build_optimizer(twin, config)
    resumed.load_state_dict(state)

    train(module, optimizer, 15)
    train(twin, resumed, 15)
    for name, value in module.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    assert same(optimizer.state_dict(), resumed.state_dict())


def same(left: Any, right: Any) -> bool:
    one, other = pack(left), pack(right)
    return one[0] == other[0] and all(torch.equal(each, other[1][name]) for name, each in one[1].items())


@each_optimizer
def test_frozen_weights_stay(record: OptimizerRecord) -> None:
    module = Small()
    module.wide.requires_grad_(False)
    before = copy.deepcopy(module.wide.state_dict())
    train(module, build_optimizer(module, config_for(record)), 3)
    assert all(torch.equal(value, module.wide.state_dict()[name]) for name, value in before.items())


@each_optimizer
def test_state_takes_the_memory_that_is_stated(record: OptimizerRecord) -> None:
    module = Small()
    optimizer = build_optimizer(module, config_for(record))
    train(module, optimizer, 1)
    roles = parameter_roles(module)
    for name, parameter in module.named_parameters():
        hidden = roles[name] == "matrix" and part_of(name) != "head"
        stated = record.state_bytes if hidden or record.rest_bytes is None else record.rest_bytes
        held = [each for each in optimizer.state.get(parameter, {}).values() if each.numel() > 1]
        assert sum(each.numel() * each.element_size() for each in held) == stated * parameter.numel(), name


@each_optimizer
def test_the_size_of_a_checkpoint_is_known_before_it_is_written(record: OptimizerRecord) -> None:
    module = Small()
    optimizer = build_optimizer(module, config_for(record))
    foreseen = state_after_a_step(optimizer)
    train(module, optimizer, 1)
    assert foreseen == pytest.approx(
        sum(each.numel() * each.element_size() for each in pack(optimizer.state_dict())[1].values()), rel=0.1
    )


class NoWaiting(TorchDispatchMode):
    """Refuses what reads a value from a device, and what has a size that depends on one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"), name
        return func(*args, **(kwargs or {}))


@each_optimizer
def test_never_waits_for_the_device(record: OptimizerRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where looking costs; a CPU may look."""
    monkeypatch.setattr(element_clip, "looking_is_free", lambda tensor: False)
    resets = {"spam_interval": 23, "spam_warmup": 2} if "spam" in record.name else {}
    module = Small()
    optimizer = build_optimizer(module, config_for(record, **resets))
    for step in range(25 if resets else 3):
        gradients_of(module, step)
        with NoWaiting():
            optimizer.step()


def updates_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[Update]:
    def gradients() -> Gradients:
        made = Gradients(list(module.parameters()), 1.0)
        if hasattr(optimizer, "prepare_gradients"):
            made.preparations.append(optimizer.prepare_gradients)
        if hasattr(optimizer, "observe_norm"):
            made.observers.append(optimizer.observe_norm)
        return made

    cpu = torch.device("cpu")
    updates: list[Update] = [HostUpdate(gradients()), ScaledUpdate(gradients(), cpu)]
    if DeviceUpdate.suits(optimizer):
        updates.append(DeviceUpdate(gradients(), cpu, sticky=False))
    return updates


@each_optimizer
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(record: OptimizerRecord, bad: float) -> None:
    module = Small()
    optimizer = build_optimizer(module, config_for(record))
    train(module, optimizer, 12)
    for update in updates_of(optimizer, module):
        before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
        optimizer.zero_grad()
        loss = module(torch.arange(5)).square().mean()
        loss.backward(update.seed(loss, 1))
        module.wide.weight.grad[1, 2] = bad
        applied = update.apply(optimizer, [loss.detach()])
        assert not applied.was_made
        assert same(before, (module.state_dict(), optimizer.state_dict())), type(update).__name__


@each_optimizer
def test_every_update_of_the_engine_descends(record: OptimizerRecord) -> None:
    for number in range(len(updates_of(build_optimizer(Small(), config_for(record)), Small()))):
        torch.manual_seed(0)
        module = Small()
        optimizer = build_optimizer(module, config_for(record))
        update = updates_of(optimizer, module)[number]
        if isinstance(update, ScaledUpdate):
            continue  # its gradients come scaled from the step; the law above has it
        before = train(module, optimizer, 1, update)
        assert train(module, optimizer, 120, update) < 0.6 * before


@each_optimizer
def test_the_schedule_rules_the_size_of_a_step(record: OptimizerRecord) -> None:
    """At rate 0 nothing moves; and a group's multiple of the rate is kept through the steps."""
    module = Small()
    optimizer = build_optimizer(module, config_for(record))
    before = copy.deepcopy(module.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(module, optimizer, 2)
    assert same(before, module.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [0.0] * len(optimizer.param_groups)


@each_optimizer
def test_a_step_is_one_step_from_outside(record: OptimizerRecord) -> None:
    """Hooks of the optimizer and of all optimizers see it once, and so does a scheduler of torch."""
    module = Small()
    optimizer = build_optimizer(module, config_for(record))
    called: list[tuple[str, Any]] = []
    handles = [
        optimizer.register_step_pre_hook(lambda self, *_: called.append(("before", self))),
        optimizer.register_step_post_hook(lambda self, *_: called.append(("after", self))),
        register_optimizer_step_pre_hook(lambda self, *_: called.append(("before any", self))),
        register_optimizer_step_post_hook(lambda self, *_: called.append(("after any", self))),
    ]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    try:
        for step in range(4):
            gradients_of(module, step)
            optimizer.step()
            schedule.step()
            names = [name for name, owner in called if owner is optimizer]
            assert names == ["before any", "before", "after", "after any"] and len(called) == 4
            called.clear()
    finally:
        for each in handles:
            each.remove()
    assert [group["lr"] for group in optimizer.param_groups] == [0.005] * len(optimizer.param_groups)


@each_optimizer
def test_goes_under_the_gradient_scaler_of_torch(record: OptimizerRecord) -> None:
    """In a loop that is not ours: the same steps as without, and none where gradients overflow."""

    def steps(scaler: torch.amp.GradScaler) -> tuple[Any, Any]:
        torch.manual_seed(0)
        module = Small()
        optimizer = build_optimizer(module, config_for(record, **SHORT.get(record.name, {})))
        for step in range(14):
            before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
            optimizer.zero_grad()
            factor = math.inf if step == 12 else 1.0
            scaler.scale(module(torch.arange(5)).square().mean() * factor).backward()
            if math.isinf(factor) and not scaler.is_enabled():
                continue
            scaler.step(optimizer)
            scaler.update()
            assert same(before, (module.state_dict(), optimizer.state_dict())) is math.isinf(factor)
        return module.state_dict(), optimizer.state_dict()

    scaled = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    assert same(steps(scaled), steps(torch.amp.GradScaler("cpu", enabled=False)))
    assert scaled.get_scale() == 2.0**3


@each_optimizer
def test_zeros_stay_where_the_record_says_so(record: OptimizerRecord) -> None:
    """What pruning relies on: no weight, no gradient, no state: nothing grows."""
    module = Small()
    optimizer = build_optimizer(module, config_for(record))
    weight = module.wide.weight
    with torch.no_grad():
        weight[::2, 1::2] = 0.0
    weight.register_hook(lambda gradient: gradient * (weight.detach() != 0))
    train(module, optimizer, 3)
    assert bool((weight[::2, 1::2] == 0.0).all()) is record.keeps_zeros


@each_optimizer
def test_says_where_it_comes_from(record: OptimizerRecord) -> None:
    assert record.summary and record.source


def test_configuration_offers_what_is_registered() -> None:
    extra = OptimConfig.model_fields["name"].json_schema_extra
    assert isinstance(extra, dict)
    assert extra["choices"] == OPTIMIZERS.names()
    assert REFERENCES.keys() == set(OPTIMIZERS.names())
