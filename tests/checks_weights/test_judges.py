"""Laws of the pure judges behind the checks: roles of parameters, drawn tables, growth of costs, twins."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchstone.adapt.stack import Siblings, sibling_groups
from torchstone.checks.tier1.bypass import bypassed
from torchstone.checks.tier1.drawn import looks_drawn
from torchstone.checks.tier1.residual_scale import per_block
from torchstone.checks.tier1.roles import judge, named_owners
from torchstone.train.meter import LiveTensors, growth

TORCH_LAYERS = [
    nn.Linear(48, 96),
    nn.Linear(768, 768),
    nn.Embedding(50, 16),
    nn.Embedding(50, 16, padding_idx=0),
    nn.LayerNorm(32),
    nn.RMSNorm(32),
    nn.BatchNorm1d(8),
    nn.Conv1d(8, 16, 3),
    nn.Conv2d(3, 8, 7),
    nn.ConvTranspose2d(8, 8, 2),
    nn.MultiheadAttention(32, 4),
    nn.GRU(16, 16),
    nn.TransformerEncoderLayer(32, 4),
    nn.PReLU(),
    nn.Bilinear(8, 8, 8),
]


@pytest.mark.parametrize("layer", TORCH_LAYERS, ids=lambda each: type(each).__name__)
def test_what_torch_draws_is_healthy(layer: nn.Module) -> None:
    verdicts = [judge(name, value, owner, own) for name, value, owner, own in named_owners(layer)]
    assert [each for each in verdicts if each.status != "pass"] == []


@given(st.integers(8, 512), st.integers(8, 512), st.sampled_from(["0.02", "fan_in", "xavier", "orthogonal"]))
@settings(max_examples=40, deadline=None)
def test_every_common_start_of_a_linear_map_is_healthy(rows: int, columns: int, start: str) -> None:
    layer = nn.Linear(columns, rows, bias=False)
    with torch.no_grad():
        if start == "0.02":
            layer.weight.normal_(std=0.02)
        elif start == "fan_in":
            layer.weight.normal_(std=1 / math.sqrt(columns))
        elif start == "xavier":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.orthogonal_(layer.weight)
    assert judge("weight", layer.weight, layer).status == "pass"


@given(st.integers(16, 256), st.sampled_from([1e-7, 1e3]))
@settings(max_examples=20, deadline=None)
def test_wild_scales_are_told(width: int, factor: float) -> None:
    layer = nn.Linear(width, width)
    with torch.no_grad():
        layer.weight.mul_(factor)
    assert judge("weight", layer.weight, layer).status in ("warn", "fail")


def test_a_vector_may_be_constant_and_a_matrix_may_not() -> None:
    norm, linear = nn.LayerNorm(64), nn.Linear(64, 64)
    with torch.no_grad():
        linear.weight.fill_(0.1)
    assert judge("weight", norm.weight, norm).status == "pass"
    assert judge("bias", linear.bias, linear, "bias").status == "pass"
    assert judge("weight", linear.weight, linear).status == "fail"


def _sines(length: int, width: int) -> Tensor:
    angles = torch.arange(length)[:, None] * 10000 ** -(torch.arange(0, width, 2) / width)[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _padded(table: Tensor) -> Tensor:
    table = table.clone()
    table[1] = 0.0
    return table


RULES = {
    "sines": _sines(64, 32),
    "sines with a padding row": _padded(_sines(64, 32)),
    "rotary frequencies": 10000 ** -(torch.arange(0, 64, 2) / 64),
    "causal mask": torch.full((32, 32), -math.inf).triu(1),
    "positions": torch.arange(64).float(),
    "alibi slopes": 2.0 ** -torch.arange(1, 17).float(),
    "relative distances": (torch.arange(32)[:, None] - torch.arange(32)[None]).float().abs().log1p(),
    "ones": torch.ones(8, 8),
    "ids": torch.arange(64),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_does_not_look_drawn(name: str) -> None:
    assert not looks_drawn(RULES[name])


@given(st.integers(0, 1000), st.sampled_from([(32,), (16, 16), (64, 8), (1, 24, 8)]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_was_drawn_looks_drawn(seed: int, shape: tuple[int, ...], uniform: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    make = torch.rand if uniform else torch.randn
    values = make(shape, generator=generator)
    assert looks_drawn(values)
    assert looks_drawn(values[None].repeat(5, *[1] * values.dim()))


@given(st.floats(0.0, 3.0), st.floats(1.0, 1e6))
def test_growth_finds_the_exponent(power: float, unit: float) -> None:
    assert growth(unit * 2.0**power, unit * 8.0**power, 4.0) == pytest.approx(power, abs=1e-6)


def test_adding_equal_blocks_is_no_growth_and_multiplying_is() -> None:
    added = tuple(float(number) for number in range(1, 9))
    tripled = tuple(3.0**number for number in range(8))
    assert per_block(added, additive=True) == 1.0
    assert per_block(tripled, additive=True) > 2.0


def test_the_meter_counts_what_lives_and_what_is_left() -> None:
    kept: list[Tensor] = []
    with LiveTensors() as live:
        a = torch.zeros(1000)
        b = a + 1
        peak = live.peak
        del b
        kept.append(a)
        del a
    assert peak == 8000
    assert live.now == 4000


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2) for _ in range(3)])


def _names(module: nn.Module, prefix: str) -> list[str]:
    return [name for name, _ in module.named_parameters() if name.startswith(prefix)]


def test_a_dead_part_with_a_working_twin_is_named() -> None:
    model = _Pair()
    stacks = _stacks(model)
    ran = {name for name, _ in model.named_modules() if name and not name.startswith("blocks.1.self_attn")}
    found = bypassed(model, _names(model, "blocks.1.self_attn"), ran, stacks, complete=True)
    assert [(each.name, each.certain) for each in found] == [("blocks.1.self_attn", True)]


def test_a_last_block_that_runs_in_vain_may_be_meant() -> None:
    model = _Pair()
    ran = {name for name, _ in model.named_modules() if name}
    found = bypassed(model, _names(model, "blocks.2"), ran, _stacks(model), complete=True)
    assert not found[0].certain


def test_a_last_block_that_never_runs_is_a_mistake() -> None:
    model = _Pair()
    ran = {name for name, _ in model.named_modules() if name and not name.startswith("blocks.2")}
    found = bypassed(model, _names(model, "blocks.2"), ran, _stacks(model), complete=True)
    assert found[0].name == "blocks.2"
    assert found[0].certain


def _stacks(model: nn.Module) -> list[Siblings]:
    return [each for each in sibling_groups(model) if each.name == "blocks"]
