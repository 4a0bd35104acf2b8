"""The width that follows from a ratio of parameters."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import ConfigError, TorchstoneError
from torchstone.config.resolve import resolve
from torchstone.nn.config import AttentionConfig, MLPConfig, ModelConfig
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.nn.zoo import ZOO


def found_ratio(config: GPTConfig) -> float:
    """Counted on the model itself."""
    blocks = GPT(config).blocks
    attention = sum(each.numel() for block in blocks for each in block.attention.parameters())
    return sum(each.numel() for block in blocks for each in block.mlp.parameters()) / attention


def test_golden_widths_of_gpt2() -> None:
    golden = MLPConfig(name="dense", ratio=2.5, multiple_of=64)
    assert GPTConfig(mlp=golden).hidden_width == 3840
    assert GPTConfig(mlp=golden, attention=AttentionConfig(name="mla", latent=128)).hidden_width == 2560
    assert GPTConfig(mlp=MLPConfig(name="dense", ratio=2.5)).hidden_width == 3842


def test_the_parts_of_a_reciprocal_mlp_count() -> None:
    golden = MLPConfig(name="reciprocal", ratio=2.5, multiple_of=64, bottleneck=160)
    assert GPTConfig(mlp=golden).hidden_width == 3072
    assert GPTConfig(mlp=golden, attention=AttentionConfig(name="mla", latent=128)).hidden_width == 2048


@settings(max_examples=15, deadline=None)
@given(
    ratio=st.floats(1.5, 6.0),
    attention=st.sampled_from(["sdpa", "mla", "ra-residual", "gated"]),
    mlp=st.sampled_from(["dense", "reciprocal"]),
)
def test_no_width_comes_nearer(ratio: float, attention: str, mlp: str) -> None:
    def sized(**changes: object) -> GPTConfig:
        parts = {"gate_width": 3, "bottleneck": 4} if mlp == "reciprocal" else {}
        wide = {"mlp": MLPConfig(name=mlp, ratio=ratio, **parts)} | changes
        mechanism = AttentionConfig(name=attention, **({"latent": 8} if attention == "mla" else {}))
        return GPTConfig(
            vocab_size=8, max_seq_len=8, d_model=16, num_layers=3, num_heads=2, attention=mechanism, **wide
        )

    config, parts = sized(), {"gate_width": 3, "bottleneck": 4} if mlp == "reciprocal" else {}
    near = [
        abs(found_ratio(sized(d_ff=config.hidden_width + by, mlp=MLPConfig(name=mlp, **parts))) - ratio)
        for by in (-1, 0, 1)
    ]
    assert abs(found_ratio(config) - ratio) == near[1] == min(near)
    assert all(one != other for one, other in pairwise(near))


def test_a_model_is_described_by_its_width() -> None:
    wishes = ModelConfig(mlp=MLPConfig(ratio=2.5, multiple_of=8))
    module, described = ZOO.get("gpt-nano").build(wishes)
    assert described["d_ff"] == module.config.hidden_width == 640
    assert described["mlp"] == {"name": None, "ratio": None}
    again, _ = ZOO.get("gpt-nano").build({"d_ff": described["d_ff"], "mlp": described["mlp"]})
    assert [each.shape for each in again.parameters()] == [each.shape for each in module.parameters()]


def test_two_answers_to_one_question_are_refused() -> None:
    with pytest.raises(ConfigError, match="both tell the width"):
        GPTConfig(d_ff=3072, mlp=MLPConfig(name="dense", ratio=2.5))
    with pytest.raises(TorchstoneError, match=r"model\.d_ff"):
        wishes = {"model.mlp.ratio": "2.5", "model.d_ff": "3072"}
        resolve({"model": ModelConfig}, overrides=list(wishes.items()))


def test_a_ratio_that_the_parts_exceed_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no width"):
        GPTConfig(mlp=MLPConfig(name="dense", ratio=0.001, multiple_of=64))
