"""attribution: integrated gradients that add up, equal to captum's, on text and images."""

from __future__ import annotations

import pytest
import torch
from checks_inside.attending import Attending
from torch import Tensor, nn

import torchstone as ts
from torchstone.checks.run import _context
from torchstone.checks.tier2.attribution import attribute


def test_equal_to_captum() -> None:
    captum = pytest.importorskip("captum.attr", reason="captum comes with torchstone[dev]")
    torch.manual_seed(0)
    model = Attending("softmax").eval()
    context = _context(ts.adapt(model), None, None, 0, 60.0)
    batch = context.batch(1, length=9)
    with torch.no_grad():
        model.embed.weight[0] = 0  # captum's baseline is an id, ours an embedding of zeros
    ours = attribute(context, batch, 16)
    explainer = captum.LayerIntegratedGradients(lambda ids: model(ids)[:, -1], model.embed)
    theirs = explainer.attribute(
        batch["input_ids"], baselines=0, target=ours.target, n_steps=16, method="gausslegendre"
    )
    torch.testing.assert_close(ours.values, theirs[0].detach(), atol=1e-5, rtol=1e-4)


def test_a_linear_model_is_explained_exactly() -> None:
    """Of a sum of embeddings, a token's share is its own embedding's product with the head."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(20, 4))
            self.head = nn.Linear(4, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.table[input_ids].sum(1))

    torch.manual_seed(0)
    model = Sum().eval()
    context = _context(ts.adapt(model, task="classification"), None, None, 0, 60.0)
    batch = context.batch(1, length=5)
    found = attribute(context, batch, 16)
    expected = model.table[batch["input_ids"][0]] * model.head.weight[found.target]
    torch.testing.assert_close(found.values, expected.detach())
    assert found.gap < 1e-5


@pytest.mark.parametrize("target", ["zoo:gpt-nano", "zoo:lenet5"])
def test_a_sound_model_passes(target: str) -> None:
    found = ts.check(target, only=["attribution"])["attribution"]
    assert found.status == "pass", found.summary
    assert found.details["convergence_delta"] is not None and max(found.details["attribution_scores"]) <= 1


@pytest.mark.parametrize(("fault", "status"), [("deaf", "fail"), ("jump", "warn")])
def test_what_cannot_be_explained_is_said(fault: str, status: str) -> None:
    torch.manual_seed(0)
    found = ts.check(Attending("softmax", fault), only=["attribution"])["attribution"]
    assert found.status == status, found.summary


def test_flex_attention_on_a_cpu_is_a_skip() -> None:
    found = ts.check(Attending("flex"), only=["attribution"])["attribution"]
    assert found.status == "skip" and "backward" in found.why
