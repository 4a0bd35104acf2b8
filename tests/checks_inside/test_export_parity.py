"""export-parity: what was exported answers as the model does, and a format that cannot be made has failed."""

from __future__ import annotations

import torch
from checks_inside.attending import Attending
from torch import Tensor, nn

import torchstone as ts
from torchstone.checks.registry import CHECKS, checks_of
from torchstone.checks.run import _context
from torchstone.checks.tier4.export_parity import PROVEN, _absent, export_parity
from torchstone.export.formats import FORMATS, Format
from torchstone.tracking.records import CheckResult


def judged(model: nn.Module, *formats: str) -> CheckResult:
    context = _context(ts.adapt(model.eval()), None, None, 0, 60.0)
    checks_of((4,))
    context.current = CHECKS.get("export-parity")
    return export_parity(context, formats)


def test_a_sound_model_passes_at_every_size() -> None:
    torch.manual_seed(0)
    model = Attending("softmax")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = judged(model, "pt2")
    assert found.status == "pass", found.summary
    pt2 = found.details["formats"]["pt2"]
    assert pt2["max_abs_diff"] <= 1e-4 and pt2["latency_ratio"] > 0 and pt2["cases"] >= 12
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_export_that_answers_otherwise_fails() -> None:
    """Under export the model takes a branch of its own."""
    torch.manual_seed(0)
    found = judged(Attending("softmax", "compiled"), "pt2")
    assert found.status == "fail" and found.details["formats"]["pt2"]["status"] == "fail"
    assert "an output differs" in found.summary


def test_a_format_that_cannot_be_made_is_a_failure_with_its_obstacle() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            return self.head(x if x.sum() > 0 else -x)

    found = judged(Branching(), "pt2")
    assert found.status == "fail" and "torch.export cannot trace" in found.summary


def test_a_format_whose_package_is_missing_is_a_failure_that_names_the_extra() -> None:
    format = Format("onnx", "", "nowhere:write", extra="onnx", packages=("no_such_package_here",))
    found = _absent(format)
    assert found["status"] == "fail" and "pip install 'torchstone[onnx]'" in found["why"]


def test_every_format_that_is_asked_for_exists() -> None:
    assert all(FORMATS.get(name).runtime for name in PROVEN)
