"""The fitted geometry of values: exact where it can be, and really smaller in a cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone._errors import ConfigError, UsageError
from torchstone.nn.attention.geometry import KNOTS, Geometry, bend, fit_geometry, unbend
from torchstone.nn.attention.kvsplice import fit_kvsplice
from torchstone.nn.attention.naive_splice import naive_bend, naive_round_trip
from torchstone.nn.config import AttentionConfig
from torchstone.nn.gpt import GPT, GPTConfig

SIZES = {"vocab_size": 29, "max_seq_len": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}


def splines(seed: int, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    knots = torch.randn(width, KNOTS).sort(dim=1).values + 0.01 * torch.arange(KNOTS)
    return knots, torch.rand(width, KNOTS + 1) + 0.2, torch.randn(width)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_bending_is_monotone_continuous_and_exactly_undone(seed: int) -> None:
    parts = splines(seed)
    v = torch.linspace(-4, 4, 801)[:, None].expand(-1, 3).contiguous()
    bent = bend(v, *parts)
    steps = bent.diff(dim=0)
    assert (steps > 0).all() and steps.max() < 0.01 * 1.3  # slopes lie between .2 and 1.2
    torch.testing.assert_close(unbend(bent, *parts), v, atol=1e-5, rtol=1e-5)


def curved(number: int) -> Tensor:
    """Values on a curve of one dimension that no plane of one dimension holds, in four channels."""
    t = torch.randn(number, 1, generator=torch.Generator().manual_seed(3))
    return torch.cat([t, t.sign() * t.abs() ** 3, torch.tanh(3 * t), -t], dim=1)


def error(geometry: Geometry, values: Tensor) -> float:
    return float((geometry.decode(geometry.encode(values)) - values).pow(2).mean())


def test_the_fit_beats_directions_alone_where_channels_are_bent() -> None:
    values = curved(3000)
    plain = fit_geometry(values, 1, splines=False)
    fitted = fit_geometry(values, 1)
    assert error(fitted, values) < 0.95 * error(plain, values)
    again = fit_geometry(values, 1)
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in fitted.state_dict().items())


def test_all_directions_lose_nothing() -> None:
    values = curved(600)
    assert error(fit_geometry(values, 4), values) < 1e-8


def test_the_fit_equals_its_twin() -> None:
    values = curved(600)
    geometry = fit_geometry(values, 2)
    some = values[:20]
    torch.testing.assert_close(
        naive_round_trip(geometry, some), geometry.decode(geometry.encode(some)), atol=1e-5, rtol=1e-5
    )
    column = bend(some, geometry.knots, geometry.slopes, geometry.shift)[:, 1]
    torch.testing.assert_close(naive_bend(geometry, some[:, 1], 1), column, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_trained_model_is_spliced_and_decodes_from_the_small_cache() -> None:
    torch.manual_seed(0)
    trained = GPT(GPTConfig(**SIZES)).eval()
    for each in trained.parameters():
        each.add_(0.3 * torch.randn_like(each))
    batches = [torch.randint(0, 29, (8, 16)) for _ in range(6)]
    whole = trained(batches[0]).logits
    left = {}
    for rank in (3, 8):
        spliced = GPT(GPTConfig(**SIZES, attention=AttentionConfig(name="kvsplice", value_rank=rank))).eval()
        missing = spliced.load_state_dict(trained.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert all(".geometry." in name for name in missing.missing_keys)
        errors = fit_kvsplice(spliced, batches)
        assert len(errors) == SIZES["num_layers"]
        assert not spliced.training
        output = spliced(batches[0], use_cache=True)
        left[rank] = float((output.logits - whole).pow(2).mean() / whole.var())
        assert output.past_key_values[0][1].shape[-1] == rank
        if rank == 8:
            assert max(errors) < 1e-6
            torch.testing.assert_close(output.logits, whole, atol=1e-3, rtol=1e-3)
        else:
            assert 0.01 < max(errors) < 0.9
    assert left[8] < 1e-5 < left[3] < 1


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(UsageError, match="attention is kvsplice"):
        fit_kvsplice(GPT(GPTConfig(**SIZES)), [])
    with pytest.raises(ConfigError, match="9 is more than the 8 channels"):
        GPT(GPTConfig(**SIZES, attention=AttentionConfig(name="kvsplice", value_rank=9)))
    with pytest.raises(ConfigError, match=r"kept=9 is more than model\.attention\.latent=8"):
        GPT(GPTConfig(**SIZES, attention=AttentionConfig(name="mla-kvsplice", latent=8, kept=9)))
