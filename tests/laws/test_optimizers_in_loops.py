"""Laws of every registered optimizer in a loop, ours or another: it never waits, a step is one step."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from laws.small_optimizer import SHORT, Small, config_for, each_optimizer, gradients_of, same
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from torchstone.optim import element_clip
from torchstone.optim.registry import OptimizerRecord, build_optimizer
from torchstone.train.update import DeviceUpdate, Gradients, HostUpdate, ScaledUpdate, Update


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
def test_every_update_of_the_engine_descends_and_refuses_what_is_not_finite(record: OptimizerRecord) -> None:
    """A refused step changes neither weights nor state, and the next one goes on as if it had not been."""
    for number in range(len(updates_of(build_optimizer(Small(), config_for(record)), Small()))):
        torch.manual_seed(0)
        module = Small()
        optimizer = build_optimizer(module, config_for(record))
        update = updates_of(optimizer, module)[number]
        first = descend(module, optimizer, update, 1)
        descend(module, optimizer, update, 11)
        for bad in (math.inf, -math.inf, math.nan):
            before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
            descend(module, optimizer, update, 1, spoiled=bad)
            assert same(before, (module.state_dict(), optimizer.state_dict())), type(update).__name__
        assert descend(module, optimizer, update, 28) < 0.9 * first


def descend(
    module: Small, optimizer: torch.optim.Optimizer, update: Update, number: int, spoiled: float | None = None
) -> float:
    """Steps through an update of the engine, with a gradient that is spoiled if said so; the last loss."""
    ids = torch.arange(20) % 5
    loss = torch.zeros(())
    for _ in range(number):
        update.gradients.clear()
        loss = nn.functional.cross_entropy(module(ids), (ids * 2 + 1) % 3)
        loss.backward(update.seed(loss, 1))
        if spoiled is not None:
            module.wide.weight.grad[1, 2] = spoiled
        assert update.apply(optimizer, [loss.detach()]).was_made is (spoiled is None)
    return float(loss.detach())


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
