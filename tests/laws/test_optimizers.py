"""Laws of every registered optimizer: it is what its source says, descends, resumes bit for bit.

a new optimizer: one file, one record, one reference in tests/optim/reference.py
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from laws.small_optimizer import SHORT, Small, config_for, each_optimizer, gradients_of, same, train
from optim.reference import REFERENCES, Parameter
from safetensors.torch import load_file, save_file

from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import parameter_roles
from torchstone.optim.registry import OPTIMIZERS, OptimizerRecord, build_optimizer
from torchstone.optim.structure import part_of
from torchstone.tracking.state_file import pack, unpack
from torchstone.train.space import state_after_a_step

TOLERANCE = {"muon": 0.03}
"""Of the way that a weight went. torch's Muon iterates in bfloat16; all others compute in float64 here."""


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
    assert train(module, optimizer, 100) < 0.5 * before


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
