"""Options of mechanisms reach the blocks of our models, and are refused where they would do nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from torchstone._errors import ConfigError
from torchstone.adapt.load import config_of, load
from torchstone.config.resolve import resolve
from torchstone.nn.config import AttentionConfig, ModelConfig
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.train.config import SECTIONS

SMALL = {"vocab_size": 17, "max_seq_len": 8, "d_model": 8, "num_layers": 1, "num_heads": 2}


def test_a_chosen_mechanism_reaches_the_model_and_its_description() -> None:
    settings = resolve(SECTIONS, overrides=[("model.attention.name", "sdpa"), ("model.num_layers", "2")])
    wishes = settings.model.overrides()
    assert wishes == {"num_layers": 2, "attention": {"name": "sdpa"}}
    loaded = load("zoo:gpt-nano", overrides=wishes)
    assert loaded.module.config.attention == AttentionConfig(name="sdpa")
    assert loaded.config["attention"] == {"name": "sdpa"}
    json.dumps(loaded.config)


def test_nothing_chosen_replaces_nothing() -> None:
    assert ModelConfig().overrides() == {}


@pytest.mark.parametrize("target", ["zoo:lenet5", "torch.nn:Transformer", "model.py"])
def test_a_model_that_is_not_ours_takes_none(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # It would swallow the key without a word.
    Path("model.py").write_text(
        "from torch import nn\n\nclass M(nn.Module):\n"
        "    def __init__(self, **k):\n        super().__init__()\n"
    )
    for section, name in (("attention", "sdpa"), ("mlp", "dense")):
        with pytest.raises(ConfigError, match=f"model.{section}.* has no effect"):
            load(target, overrides={section: {"name": name}})
    with pytest.raises(ConfigError, match="cannot be overridden"):
        load(nn.Linear(2, 2), overrides={"attention": {"name": "sdpa"}})


def test_options_come_with_their_mechanism_only() -> None:
    settings = resolve(SECTIONS, overrides=[("model.attention.name", "ra"), ("model.attention.alpha", "0.5")])
    options = settings.model.overrides()["attention"]
    assert (options["name"], options["alpha"], options["window"]) == ("ra", 0.5, 64)
    assert "latent" not in options and "topk" not in options
    with pytest.raises(ConfigError, match=r"model\.attention\.alpha = 0.5 has no effect"):
        resolve(SECTIONS, overrides=[("model.attention.alpha", "0.5")])
    with pytest.raises(ConfigError, match=r"model\.attention\.latent = 5 has no effect"):
        GPTConfig(attention=AttentionConfig(name="ra", latent=5))
    with pytest.raises(ConfigError, match=r"even width.*5"):
        GPTConfig(attention=AttentionConfig(name="mla", latent=5), positions="rope")


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.attention\.name.*did you mean 'sdpa'"):
        load("zoo:gpt-nano", overrides={"attention": {"name": "sdpaa"}})
    with pytest.raises(ConfigError, match=r"model\.attention\.depth"):
        load("zoo:gpt-nano", overrides={"attention": {"name": "sdpa", "depth": 3}})


def test_the_configuration_of_a_built_model_is_plain() -> None:
    config = config_of(GPT(GPTConfig(**SMALL)))
    assert config["attention"]["name"] == "sdpa"
    json.dumps(config)
