"""What every registered reference model promises: it builds, is described truly, and heeds every override."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchstone._errors import ConfigError, UsageError
from torchstone.nn.config import ModelConfig
from torchstone.nn.zoo import ZOO, ZooModel

PARAMETERS = {
    "gpt-nano": 1_088_256,
    "gpt-tiny": 10_183_680,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt-modern": 123_588_864,
    "lenet5": 61_750,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "vit-tiny": 5_362_762,
}
# A value for each override that differs from the recipe's own.
OTHER = {
    "vocab_size": 77,
    "max_seq_len": 31,
    "d_model": 1200,
    "num_layers": 3,
    "num_heads": 1,
    "d_ff": 50,
    "dropout": 0.3,
    "norm": "rmsnorm",
    "positions": "rope",
    "tie_word_embeddings": False,
    "norm_eps": 1e-3,
    "activation": "relu2",
    "qk_norm": True,
    "bias": False,
    "vocab_multiple": 999,
    "num_classes": 7,
    "num_channels": 2,
    "batch_norm": False,
    "image_size": 64,
    "patch_size": 8,
    "attention": {"name": "mla", "latent": 20, "maps": "shared"},
    "mlp": {"name": "dense"},
}
OTHER_THAN_MODERN = {
    "norm": "layernorm",
    "positions": "learned",
    "qk_norm": False,
    "bias": True,
    "attention": {"name": "gated"},
}
CASES = [
    pytest.param(recipe, knob, id=f"{recipe.name}-{knob}")
    for recipe in ZOO
    for knob in recipe.knobs
    if knob != "mlp"  # the only one is everywhere already
    # Without a table of positions their limit is no shape; tests/nn/test_gpt.py holds it.
    and (recipe.name, knob) != ("gpt-modern", "max_seq_len")
]


def structure(module: nn.Module) -> str:
    """Everything about a module that is not the values of its parameters."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters(remove_duplicate=False)}
    heads = [child.num_heads for child in module.modules() if hasattr(child, "num_heads")]
    shared = len(list(module.parameters()))
    return f"{module!r} {shapes} {heads} {shared}"


def built(
    recipe: ZooModel, overrides: dict[str, object] | ModelConfig
) -> tuple[nn.Module, dict[str, object]]:
    with torch.device("meta"):  # shapes without memory
        return recipe.build(overrides)


@pytest.mark.parametrize("recipe", ZOO, ids=ZOO.names())
def test_has_its_published_size_and_says_where_it_comes_from(recipe: ZooModel) -> None:
    module, config = built(recipe, {})
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[recipe.name]
    assert config["task"] in ("causal-lm", "vision")
    assert recipe.source
    assert recipe.summary


@pytest.mark.parametrize(("recipe", "knob"), CASES)
def test_every_override_changes_the_model_and_its_description(recipe: ZooModel, knob: str) -> None:
    base = {"num_layers": 2} if "num_layers" in recipe.knobs else {}  # what deep models take their time for
    value = (OTHER | (OTHER_THAN_MODERN if recipe.name == "gpt-modern" else {}))[knob]
    plain, plain_config = built(recipe, base)
    changed, config = built(recipe, base | {knob: value})
    assert config[knob] == value
    assert config != plain_config
    assert structure(changed) != structure(plain)


@pytest.mark.parametrize("recipe", ZOO, ids=ZOO.names())
def test_an_override_without_effect_is_refused(recipe: ZooModel) -> None:
    knobs = set(ModelConfig.model_fields) - {"target"}
    for knob in knobs - set(recipe.knobs):
        with pytest.raises(ConfigError, match=f"model.{knob} has no effect on zoo:{recipe.name}"):
            recipe.build(ModelConfig(**{knob: OTHER[knob]}))
    with pytest.raises(ConfigError, match="no effect"):
        recipe.build({"layers": 3})


def test_the_models_own_section_of_knobs_is_understood() -> None:
    module, config = built(ZOO.get("gpt-nano"), ModelConfig(d_model=64, num_layers=2))
    assert config["d_model"] == 64
    assert config["d_ff"] == 256
    assert config["vocab_size"] == 2048
    assert len(module.blocks) == 2


def test_an_unknown_name_suggests_a_neighbour() -> None:
    with pytest.raises(UsageError, match="did you mean 'gpt-nano'"):
        ZOO.get("gpt-nanno")


def test_same_seed_same_weights() -> None:
    recipe = ZOO.get("gpt-nano")
    twins = []
    for _ in range(2):
        torch.manual_seed(3)
        twins.append(recipe.build({"num_layers": 1})[0].state_dict())
    assert all(torch.equal(twins[0][name], twins[1][name]) for name in twins[0])
