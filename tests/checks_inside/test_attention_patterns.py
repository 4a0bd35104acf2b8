"""attention-patterns: the weights of every way of writing attention, read, proven and judged."""

from __future__ import annotations

import pytest
import torch
from checks_inside.attending import HEADS, WAYS, Attending
from torch import nn

import torchstone as ts
from torchstone.checks.attention_maps import AttentionMap
from torchstone.checks.tier2.attention_patterns import pattern_of


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_attention_is_read(way: str) -> None:
    torch.manual_seed(0)
    found = ts.check(Attending(way), only=["attention-patterns"])["attention-patterns"]
    assert found.status == "pass", found.summary
    layers = found.details["layers"]
    assert [each["heads"] for each in layers] == [HEADS, HEADS]
    assert all(abs(end - 1) < 1e-5 for each in layers for end in each["row_sum"])
    assert layers[0]["module"].startswith("mixers.0") and layers[1]["module"].startswith("mixers.1")


@pytest.mark.parametrize("way", ["sdpa", "softmax", "einsum"])
def test_the_weights_are_those_of_the_formula(way: str) -> None:
    """The picture is the mean over heads of softmax(q k' / sqrt(d)) of the first block."""
    torch.manual_seed(0)
    model = Attending(way).eval()
    found = ts.check(model, only=["attention-patterns"])["attention-patterns"]
    picture = torch.tensor(found.details["maps"][0]["weights"])
    ids = ts.adapt(model)  # the same example inputs as the check drew
    from torchstone.checks.run import _context

    context = _context(ids, None, None, 0, 60.0)
    batch = context.batch(2 if context.plan.batch_size > 1 else 1, length=min(context.plan.length, 32))
    x = model.embed(batch["input_ids"]) + model.positions(torch.arange(batch["input_ids"].shape[1]))
    rows, length, width = x.shape
    q, k, _ = model.mixers[0].qkv(x).view(rows, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / (width // HEADS) ** 0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(picture, scores.softmax(-1)[0].mean(0).detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("way", "fault", "word"),
    [
        ("softmax", "sharp", "one key only"),
        ("sdpa", "sharp", "one key only"),
        ("einsum", "wrong-axis", "those of a key"),
    ],
)
def test_a_fault_is_found_and_its_module_named(way: str, fault: str, word: str) -> None:
    torch.manual_seed(0)
    found = ts.check(Attending(way, fault), only=["attention-patterns"])["attention-patterns"]
    assert found.status == "fail" and word in found.summary
    assert found.module == "mixers.0"


def test_no_attention_is_a_skip_with_its_reason() -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    found = ts.check(model, only=["attention-patterns"])["attention-patterns"]
    assert found.status == "skip" and "no softmax" in found.why


def test_a_gate_is_no_attention() -> None:
    """A mixture of experts has a softmax too; its weights multiply no values."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 8)
            self.gate, self.a, self.b, self.head = (
                nn.Linear(8, 2),
                nn.Linear(8, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 50),
            )

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            x = self.embed(input_ids)
            share = self.gate(x).softmax(-1)
            return self.head(share[..., :1] * self.a(x) + share[..., 1:] * self.b(x))

    assert ts.check(Gated(), only=["attention-patterns"])["attention-patterns"].status == "skip"


def test_figures_by_hand() -> None:
    """Head 0 looks at one key, head 1 evenly at both; the first query sees one key and does not count."""
    weights = torch.tensor([[[[1.0, 0.0], [1.0 - 1e-6, 1e-6]], [[1.0, 0.0], [0.5, 0.5]]]])
    found = pattern_of(AttentionMap("a", weights))
    assert found.collapsed_heads == (0,) and not found.collapsed
    assert found.entropy == pytest.approx((1.4815e-5 + 0.6931) / 2, abs=1e-3)
    assert found.max_weight == pytest.approx(0.75, abs=1e-3)
    assert found.specialization == pytest.approx((0 + 0 + 0.25 + 0.25) / 4, abs=1e-3)


def test_nothing_of_the_model_or_of_torch_is_left_changed() -> None:
    from torch.nn.attention import flex_attention

    model = Attending("sdpa")
    before = (torch.backends.mha.get_fastpath_enabled(), flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG)
    ts.check(model, only=["attention-patterns"])
    assert before == (
        torch.backends.mha.get_fastpath_enabled(),
        flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG,
    )
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
