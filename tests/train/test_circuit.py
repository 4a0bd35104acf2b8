"""A circuit that is known beforehand is found, channel by channel, and the model stays what it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from laws.mechanisms import CASES, Case, ids, tiny
from torch import Tensor, nn

from torchstone._errors import UsageError
from torchstone.data.task import TaskSpec
from torchstone.nn import GPT, GPTConfig
from torchstone.nn.circuit import CircuitMasks, applied, close_naively, sites
from torchstone.train.circuit import Circuit, find_circuit

V, D = 12, 4
NEEDED_KEYS, NEEDED_VALUES = (0, 1), (1, 2)
"""Channels of head 1 that the planted model uses; nothing else of its keys and values is read."""


def planted() -> GPT:
    """Head 1 of 3 looks by two channels of its keys and passes two of its values on; nothing else is read."""
    torch.manual_seed(3)
    model = GPT(GPTConfig(vocab_size=V, max_seq_len=10, d_model=3 * D, num_layers=1, num_heads=3))
    attention = model.blocks[0].attention
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        attention.qkv.weight.mul_(3)
        queries, out = torch.zeros(3 * D), torch.zeros(3 * D)
        queries[[D + each for each in NEEDED_KEYS]] = 1
        out[[D + each for each in NEEDED_VALUES]] = 1
        attention.qkv.weight[: 3 * D] *= queries[:, None]  # keys are read through the queries
        attention.qkv.bias[: 3 * D] *= queries
        attention.out.weight *= 4 * out
    return model


def only(head: int, channels: tuple[int, ...]) -> Tensor:
    found = torch.zeros(3, D, dtype=torch.bool)
    found[head, list(channels)] = True
    return found


def searched(model: nn.Module, **changes: Any) -> Circuit:
    options: dict[str, Any] = {"steps": 45, "learning_rate": 0.1, "sparsity_weight": 0.05, "batch_size": 8}
    rows, others = ([each % V for each in ids(8, 10, seed=seed)] for seed in (1, 2))
    task = TaskSpec.language_modeling(vocab_size=V)
    return find_circuit(model, rows, held_out=others, task=task, **(options | changes))


@pytest.mark.parametrize("objective", ["kl", "loss"])
def test_the_planted_circuit_is_found_and_is_the_whole_model(objective: str) -> None:
    """`loss` may close more: it keeps what helps the task, which random targets do not need."""
    found = searched(planted(), objective=objective)
    keys, values = found.kept["blocks.0.attention/keys"], found.kept["blocks.0.attention/values"]
    assert not (keys & ~only(1, NEEDED_KEYS)).any() and not (values & ~only(1, NEEDED_VALUES)).any()
    if objective == "kl":
        assert keys.equal(only(1, NEEDED_KEYS)) and values.equal(only(1, NEEDED_VALUES))
        assert found.sparsity == pytest.approx(1 - 4 / 24)
        assert found.kl == pytest.approx(0, abs=1e-6) and found.agreement == 1.0
        assert found.faithfulness == pytest.approx(1, abs=1e-4)
        assert abs(found.loss_closed - found.loss_whole) > 0.05, "the circuit must matter to be tested"
    assert len(found.course) == 45 and found.course[-1][1] < found.course[0][1]


def test_heads_are_found_as_a_whole_and_without_a_price_nothing_is_closed() -> None:
    found = searched(planted(), per="head")
    assert all(each.equal(only(1, (0,))[:, :1]) for each in found.kept.values())
    assert found.sparsity == pytest.approx(2 / 3) and found.kl == pytest.approx(0, abs=1e-6)
    free = searched(planted(), sparsity_weight=0.0)
    assert all(each[[0, 2]].all() for each in free.kept.values()), (
        "what nobody reads has no gradient of its own"
    )
    dear = searched(planted(), sparsity_weight=50.0)
    assert dear.sparsity == 1.0 and dear.faithfulness == 0.0 and dear.kl > 0.01


def test_the_model_is_afterwards_what_it_was() -> None:
    model = planted().train()
    model.token_embedding.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    wanted = [each.requires_grad for each in model.parameters()]
    state = torch.get_rng_state()
    found = searched(model, steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert model.training and [each.requires_grad for each in model.parameters()] == wanted
    assert all(each.grad is None for each in model.parameters())
    assert not any(each._forward_hooks for each in model.modules())
    again = searched(model, steps=3)
    assert found.course == again.course  # the same seed, the same circuit
    assert not found.learned_from_same
    with pytest.raises(UsageError, match="not one of this model"), found.applied(tiny(CASES[0])):
        pass


MASKABLE = [
    case
    for case in CASES
    if case.rank == 0 and case.section == "attention" and case.name in ("sdpa", "ra", "ra-ct", "gated", "rwr")
]


@pytest.mark.parametrize("case", MASKABLE, ids=[each.label for each in MASKABLE])
@torch.no_grad()
def test_masks_are_as_rows_of_the_projection_set_to_zero(case: Case) -> None:
    model = tiny(case)
    masks = CircuitMasks(sites(model))
    generator = torch.Generator().manual_seed(0)
    for theta in masks.thetas:
        theta.copy_(torch.randn(theta.shape, generator=generator))
    twin = copy.deepcopy(model)
    close_naively(twin, masks.kept())
    plain = model(ids(2, 9)).logits
    with applied(masks.sites, masks(temperature=0.3)):
        torch.testing.assert_close(model(ids(2, 9)).logits, twin(ids(2, 9)).logits)
    assert not torch.allclose(plain, twin(ids(2, 9)).logits)
    assert torch.equal(model(ids(2, 9)).logits, plain)


def test_masks_are_hard_and_have_the_gradient_of_the_probability() -> None:
    masks = CircuitMasks(sites(planted()))
    with torch.no_grad():
        masks.thetas[0].copy_(torch.linspace(-1, 1, 12).view(3, 4))
    mask = masks(temperature=0.5)[0]
    assert mask.detach().unique().tolist() == [0.0, 1.0]
    mask.sum().backward()
    p = torch.sigmoid(masks.thetas[0].detach() / 0.5)
    torch.testing.assert_close(masks.thetas[0].grad, p * (1 - p) / 0.5)
    share = masks.expected_share(0.5)
    shares = [each.mean() for each in masks.probabilities(0.5)]
    torch.testing.assert_close(share, sum(shares) / 2)


class TwoProjections(nn.Module):
    """Keys and values in the manner of Llama, with fewer heads for them than for queries."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 4
        self.k_proj, self.v_proj = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.k_proj(x) + self.v_proj(x)


def test_other_attentions_are_known_or_refused() -> None:
    found = sites(nn.Sequential(TwoProjections()))
    assert [(each.name, each.part, each.num_heads, each.head_width) for each in found] == [
        ("0", "keys", 2, 4), ("0", "values", 2, 4),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no keys and values"):
        sites(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="per='channel'"):
        CircuitMasks(found, per="layer")
