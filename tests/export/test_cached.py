"""Decoding with the cache: taken apart and built again, one place per token, refused where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from torchstone._errors import ModelError
from torchstone.adapt.load import load
from torchstone.export.bundle import export
from torchstone.export.cached import Cached, flatten, rebuild
from torchstone.export.formats import FORMATS, chosen
from torchstone.export.source import Source


def test_caches_are_taken_apart_and_built_again() -> None:
    tensors = [torch.randn(2, 3, 5, 4) for _ in range(4)]
    nested = ((tensors[0], tensors[1]), (tensors[2], tensors[3]))
    for cache in (nested, DynamicCache(ddp_cache_data=nested)):
        flat, shape = flatten(cache)
        again, _ = flatten(rebuild(flat, shape))
        assert all(map(torch.equal, flat, tensors))
        assert all(map(torch.equal, again, tensors))


def test_token_by_token_is_the_whole_pass(source: Source) -> None:
    module = Cached(source.adapter, "past_key_values").eval()
    ids = torch.randint(0, 258, (2, 9))
    with torch.no_grad():
        whole = source.adapter(input_ids=ids).main
        logits, *past = module(ids[:, :5])
        parts = [logits]
        for place in range(5, 9):
            logits, *past = module(ids[:, place : place + 1], *past)
            parts.append(logits)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-6)


def test_a_model_without_a_cache_is_told_what_to_take(tmp_path: Path) -> None:
    assert {"pt2-cache", "onnx-cache"} <= set(FORMATS.names())
    picture = Source(load("zoo:lenet5"))
    with pytest.raises(ModelError, match="no format could be exported") as told:
        export(picture, tmp_path / "out", chosen("pt2-cache"))
    assert "there is no cache to decode with" in told.value.why
    assert [*tmp_path.iterdir()] == []
