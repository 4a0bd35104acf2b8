"""cost: counted by hand, forecast equal to measured, and what cannot fit is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchstone as ts


class Tied(nn.Module):
    """One matrix, used twice; 4 bytes for each of its 50 x 8 weights."""

    def __init__(self, length: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.positions = nn.Embedding(length, 8) if length < 1000 else None
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight
        self.config = {"vocab_size": 50, "max_position_embeddings": length}

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        scores = (x @ x.transpose(1, 2)).softmax(-1)
        return self.head(scores @ x)


def test_counted_by_hand() -> None:
    found = ts.check(Tied(), only=["cost"])["cost"]
    assert found.status == "pass", found.summary
    tokens = found.details["measured"]["tokens"]
    assert found.details["parameters"] == 50 * 8 + 64 * 8
    assert found.measured == 2 * (2 * tokens * tokens * 8 + tokens * 8 * 50)
    forecasts = found.details["forecast"]
    assert forecasts[0]["activation_bytes"] == found.details["measured"]["activation_bytes"]
    assert [each["rows"] for each in forecasts] == [1, 1, 8]
    assert forecasts[2]["flops"] == 8 * forecasts[1]["flops"]
    assert found.details["kv_bytes_per_token"] is None


def test_the_cache_of_gpt_nano() -> None:
    """Keys and values of every layer, 4 bytes each."""
    model = ts.load("zoo:gpt-nano")
    found = ts.check(model, only=["cost"])["cost"]
    config = model.module.config
    assert found.details["kv_bytes_per_token"] == config.num_layers * 2 * config.d_model * 4


def test_what_cannot_fit_fails() -> None:
    """Scores of a million tokens squared: 4 TB."""
    found = ts.check(Tied(length=1_000_000), config={"max_position_embeddings": 1_000_000}, only=["cost"])[
        "cost"
    ]
    assert found.status == "fail" and "GiB" in found.summary


@pytest.mark.parametrize("what", ["item", "nonzero"])
def test_work_that_depends_on_values_is_said(what: str) -> None:
    class Depends(Tied):
        def forward(self, input_ids: Tensor) -> Tensor:
            out = super().forward(input_ids)
            if what == "item":
                return out * float(out.abs().max().item() > -1)
            return out * (1 + 0 * len(torch.nonzero(out > 1e9)))

    found = ts.check(Depends(), only=["cost"])["cost"]
    assert found.status == "warn" and found.details["forecast_why_not"] in found.summary
