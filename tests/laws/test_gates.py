"""Every learned scalar of every mechanism is told as it acts, under a name, one number or one per head."""

from __future__ import annotations

import pytest
import torch
from laws.mechanisms import CASES, Case, shared
from torch import nn

from torchstone.nn.gates import Gates, gate_metrics, gates_of
from torchstone.nn.gpt import GPT

MOST_VIEWS = 3
"""Numbers that one head may have side by side, as the weights of its views."""


def learned_scalars(model: GPT) -> list[tuple[str, nn.Parameter]]:
    """Of the mechanisms' own modules: single numbers, and a few numbers per head."""
    heads = model.config.num_heads
    return [
        (f"{path}.{name}", each)
        for path, module in model.named_modules()
        if type(module).__module__.startswith(("torchstone.nn.attention", "torchstone.nn.mlp"))
        for name, each in module.named_parameters(recurse=False)
        if each.dim() == 0 or (each.shape[0] == heads and each.numel() <= heads * MOST_VIEWS)
    ]


@pytest.mark.parametrize("case", CASES, ids=[f"{each.section}-{each.label}" for each in CASES])
@torch.no_grad()
def test_every_learned_scalar_moves_a_gate(case: Case) -> None:
    model = shared(case)  # every scalar is put back
    before = gates_of(model)
    assert all(each.isfinite().all() and each.shape in ((), (4,)) for each in before.values())
    for name, each in learned_scalars(model):
        kept = each.clone()
        each.mul_(0.5).add_(0.03 * torch.arange(each.numel()).view_as(each) + 0.01)
        after = gates_of(model)
        assert any(not torch.equal(after[key], before[key]) for key in before), name
        each.copy_(kept)
    assert all(each.equal(gates_of(model)[key]) for key, each in before.items())


def test_the_gates_that_users_know_are_there() -> None:
    told = {key for case in CASES if case.rank < 2 for key in gates_of(shared(case))}
    ends = {key.split(".", 2)[-1] for key in told}
    assert ends >= {
        "attention.cross_token/scale", "attention/score", "attention/reciprocity", "attention.route/share",
        "attention/standard", "attention.restart/share", "attention/strength", "mlp.gate/at-rest",
        "mlp/coupling", "mlp.exchange/read",
    }  # fmt: skip


@torch.no_grad()
def test_gates_are_told_as_they_act() -> None:
    found = {case.label: case for case in CASES}
    lens = gates_of(shared(found["lens"]))
    views = [lens[f"blocks.0.attention/{view}"] for view in ("score", "reciprocity", "discoverability")]
    torch.testing.assert_close(sum(views), torch.ones(4))
    warming = shared(found["ra-warmup_steps=5"])
    reciprocity = warming.blocks[0].attention.reciprocity
    full = gates_of(warming)["blocks.0.attention.reciprocity/alpha"]
    reciprocity.warm_up.at_step(2)
    assert gates_of(warming)["blocks.0.attention.reciprocity/alpha"] == pytest.approx(float(0.4 * full))
    reciprocity.warm_up.at_step(5)


class Stranger(nn.Module):
    """It has a method `gates` of its own meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor([0.25]))
        self.frozen = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.inner = nn.Linear(3, 1)

    def gates(self) -> str:
        raise AssertionError("nobody may call this")


class TwoHeads(Gates, nn.Module):
    def gates(self) -> dict[str, torch.Tensor]:
        return {"open": torch.tensor([0.5, 0.75]), "all": torch.tensor(1.0)}


def test_metrics_name_the_module_the_gate_and_the_head() -> None:
    assert gate_metrics(nn.Sequential(Stranger(), TwoHeads())) == {
        "gates/0/temperature": 0.25, "gates/1/open/0": 0.5, "gates/1/open/1": 0.75, "gates/1/all": 1.0,
    }  # fmt: skip
    assert gate_metrics(nn.Linear(2, 2)) == {}
