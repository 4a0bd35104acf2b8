"""Images of all rows packed into one axis: probes that take rows and positions apart use the text alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from zoo.leaks import TinyGPT

import torchstone as ts
from torchstone.checks.context import Context, _plain_text
from torchstone.checks.plan import choose_plan


class PackedExamples:
    """Two patches per row, all in one axis, beside the ids that hold their placeholders."""

    primary = "input_ids"

    def batch(self, batch_size: int, length: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        ids = torch.randint(3, 61, (batch_size, length or 8), generator=torch.Generator().manual_seed(seed))
        ids[:, :1] = 60
        return {"input_ids": ids, "pixel_values": torch.randn(2 * batch_size, 4)}


class TakesImages(TinyGPT):
    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Any:  # type: ignore[override]
        if pixel_values is not None and len(pixel_values) != 2 * len(input_ids):
            raise RuntimeError("patches and rows do not fit")
        return super().forward(input_ids)


class NeedsImages(TakesImages):
    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Any:  # type: ignore[override]
        if pixel_values is None:
            raise ValueError("no image was given")
        return super().forward(input_ids, pixel_values)


def _context(model: nn.Module) -> Context:
    return Context(
        adapter=ts.adapt(model, task="causal-lm"), plan=choose_plan(1000, 96, 60.0), seed=0,
        device=torch.device("cpu"), examples=PackedExamples(),
    )  # fmt: skip


def test_packed_images_are_left_out_while_rows_are_taken_apart() -> None:
    context = _context(TakesImages())
    assert set(context.batch(3)) == {"input_ids", "pixel_values"}
    with context.taken_apart():
        assert set(context.batch(3)) == {"input_ids"}
    assert set(context.batch(3)) == {"input_ids", "pixel_values"}


def test_a_model_that_needs_its_images_keeps_them() -> None:
    context = _context(NeedsImages())
    with context.taken_apart():
        assert set(context.batch(3)) == {"input_ids", "pixel_values"}


def test_placeholders_become_text() -> None:
    ids = torch.tensor([[9, 3, 4], [9, 9, 5]])
    assert _plain_text(ids, (9,)).tolist() == [[3, 3, 4], [3, 3, 5]]
