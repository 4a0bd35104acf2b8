"""Hidden matrices go one way, the rest by AdamW; and what SinkGD makes of a matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import MATRIX
from torchstone.optim.registry import build_optimizer
from torchstone.optim.sinkgd import balanced, balanced_l1

SIZES = {"vocab_size": 11, "max_seq_len": 8, "d_model": 8, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("name", ["muon", "sinkgd"])
@pytest.mark.parametrize("tied", [True, False])
def test_matrices_between_embedding_and_output_are_treated_apart(name: str, tied: bool) -> None:
    module = GPT(GPTConfig(**SIZES, tie_word_embeddings=tied))
    optimizer = build_optimizer(module, OptimConfig(name=name))
    names = {id(parameter): path for path, parameter in module.named_parameters()}
    apart = {names[id(p)] for group in optimizer.param_groups if group[MATRIX] for p in group["params"]}
    in_blocks = {path for path in names.values() if path.startswith("blocks.") and path.endswith("weight")}
    assert apart and apart == {path for path in in_blocks if "norm" not in path}


def test_convolutions_go_by_adamw() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 4))
    optimizer = build_optimizer(module, OptimConfig(name="muon"))
    assert [p.ndim for group in optimizer.param_groups if group[MATRIX] for p in group["params"]] == [2]


def test_a_model_without_matrices_is_no_trouble() -> None:
    module = nn.LayerNorm(4)
    optimizer = build_optimizer(module, OptimConfig(name="muon"))
    module(torch.randn(2, 4)).square().sum().backward()
    optimizer.step()


def test_rows_and_columns_are_balanced() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(12, 30) * torch.rand(12, 1) ** 4 * 1e-20  # its squares underflow
    x = balanced(gradient, 20)
    assert torch.allclose(x.norm(dim=1), torch.full((12,), 30**0.5), rtol=1e-3)
    assert torch.allclose(x.norm(dim=0), torch.full((30,), 12**0.5), rtol=1e-5)
    assert torch.equal(x.sign(), gradient.sign())


def test_rows_of_zeros_stay_zero() -> None:
    gradient = torch.randn(4, 6)
    gradient[1] = 0.0
    x = balanced(gradient, 5)
    assert bool(x.isfinite().all()) and bool((x[1] == 0).all())
    assert bool((balanced(torch.zeros(3, 3), 5) == 0).all())


def test_the_form_of_2025_keeps_the_size_of_a_gradient() -> None:
    gradient = 1e-3 * torch.randn(5, 7)
    x = balanced_l1(gradient, 5, 0.1, 1e-8)
    assert float(x.square().mean()) == pytest.approx(float(gradient.square().mean()), rel=1e-4)
    plain = balanced_l1(gradient, 0, 0.1, 1e-8)
    assert torch.allclose(plain, gradient / gradient.abs().mean())
