"""What `kv-pruned` keeps: budgets that are learned or informed, and caches as small as they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone._errors import ConfigError
from torchstone.nn.attention.budget import Budget
from torchstone.nn.attention.context import Handoff
from torchstone.nn.config import AttentionConfig, MLPConfig
from torchstone.nn.costs import costs
from torchstone.nn.gpt import GPT, GPTConfig

SIZES: dict[str, Any] = {
    "vocab_size": 23,
    "max_seq_len": 24,
    "d_model": 8,
    "num_layers": 1,
    "num_heads": 2,
}
RMLP = MLPConfig(name="r-mlp", reciprocal_width=4, skip=0.0)


def gpt(mlp: MLPConfig | None = None, **options: Any) -> GPT:
    torch.manual_seed(0)
    if options.get("importance") != "recency":
        options = {"keep": 8, **options}
    attention = AttentionConfig(name="kv-pruned", recent=2, **options)
    return GPT(GPTConfig(**SIZES, attention=attention, mlp=mlp or MLPConfig(name="dense"))).eval()


def ids() -> Tensor:
    return torch.randint(0, 23, (1, 24), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def places_kept(model: GPT) -> int:
    """Places whose values are in the cache after 24 tokens."""
    cache = model(ids(), use_cache=True).past_key_values
    assert cache is not None
    return cache[0][2].shape[2]


@pytest.mark.parametrize("importance", ["attention", "norm", "learned"])
@torch.no_grad()
def test_a_learned_budget_makes_the_cache_smaller(importance: str) -> None:
    model = gpt(importance=importance, budget="learned")
    assert places_kept(model) == 8 + 2  # 8 sigmoid(2) is 7.05
    model.blocks[0].attention.budget.logit.fill_(0.0)
    assert places_kept(model) == 4 + 2


@pytest.mark.parametrize("mlp", [None, RMLP])
@torch.no_grad()
def test_a_budget_is_read_from_the_device_once_per_sequence(
    mlp: MLPConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gpt(mlp, budget="learned" if mlp is None else "gate-informed")
    whole, reads = model(ids()).logits, []
    most = Budget.most
    monkeypatch.setattr(Budget, "most", lambda self, budget: reads.append(1) or most(self, budget))
    cache, logits = None, []
    for piece in ids().split([5, *[1] * 19], dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert len(reads) == 1


@torch.no_grad()
def test_what_the_mlp_hears_lowers_the_budget() -> None:
    model = gpt(RMLP, budget="gate-informed", beta=2.0)
    attention, mlp = model.blocks[0].attention, model.blocks[0].mlp
    confidence = mlp.confidence().item()
    assert confidence == pytest.approx((4 / 32) * 0.5)
    assert attention.budget(Handoff(confidence=mlp.confidence())).item() == pytest.approx(
        8 / (1 + 2 * confidence)
    )
    mlp.coupling.fill_(16.0)
    assert places_kept(model) == 3 + 2  # 8 / 3
    mlp.coupling.fill_(-16.0)
    assert places_kept(model) == 8 + 2
    mlp.coupling.fill_(1e9)
    assert places_kept(model) == 1 + 2  # a tenth of 8, rounded up


def test_a_budget_has_the_gradient_of_what_it_computes() -> None:
    """Against the difference quotient: no estimator."""
    model = gpt(budget="learned", importance="norm").double()
    logit = model.blocks[0].attention.budget.logit
    (found,) = torch.autograd.grad(model(ids()).logits.pow(2).sum(), [logit])
    for head in range(2):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                logit[head] += step
                values.append(model(ids()).logits.pow(2).sum().item())
                logit[head] -= step
        assert found[head].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)
        assert found[head] != 0


def test_reused_scores_drop_keys_too_and_recency_everything_else() -> None:
    only_values, both, recency = gpt(), gpt(drop="keys-values"), gpt(importance="recency")
    assert costs(only_values.config, 24).cache_numbers == 8 * 24 + 8 * 10 + 2 * 2 * 10
    assert costs(both.config, 24).cache_numbers == 8 * 10 + 8 * 10 + 2 * 2 * 10
    assert costs(recency.config, 24).cache_numbers == 2 * 8 * 1
    assert not costs(recency.config, 24).materialises


@torch.no_grad()
def test_what_was_dropped_decides_nothing_any_more() -> None:
    """Where scores are reused, the two differ as soon as a key was dropped."""
    values, reused = gpt(keep=2), gpt(keep=2, drop="keys-values")
    reused.load_state_dict(values.state_dict())
    for model in (values, reused):
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    one, other = values(ids()).logits[0], reused(ids()).logits[0]
    torch.testing.assert_close(one[:5], other[:5])  # nothing dropped has counted yet
    assert not torch.allclose(one, other)


def test_a_budget_nobody_informs_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody to inform it"):
        gpt(budget="gate-informed")
