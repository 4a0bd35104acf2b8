"""`hf:` builds what the configuration says, from local files alone, and runs none of their code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from torchstone._errors import ConfigError, ModelError, Offline, UntrustedCode, UsageError
from torchstone.adapt.load import load

transformers = pytest.importorskip("transformers", reason="pip install 'torchstone[hf]'")

ENCODER = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
TINY: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 30, "bos_token_id": 0, "eos_token_id": 0},
    "bert": ENCODER | {"vocab_size": 30},
    "t5": {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "vocab_size": 30},
    "vit": ENCODER | {"image_size": 32},
}  # fmt: skip


def folder_of(path: Path, kind: str, **extra: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": kind, **TINY.get(kind, {}), **extra}))
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gpt2", "LMHead"),
        ("bert", "ForMaskedLM"),
        ("t5", "ForConditionalGeneration"),
        ("vit", "ForImageClassification"),
    ],
)  # fmt: skip
def test_the_class_follows_the_library_s_own_mapping(tmp_path: Path, kind: str, expected: str):
    model = load(f"hf:{folder_of(tmp_path, kind)}")
    assert expected in model.class_name
    assert any("random" in note for note in model.notes)


def test_architectures_outranks_the_mapping(tmp_path: Path):
    model = load(f"hf:{folder_of(tmp_path, 'bert', architectures=['BertForSequenceClassification'])}")
    assert model.class_name == "BertForSequenceClassification"


def test_weights_are_loaded_where_they_are(tmp_path: Path):
    config = transformers.GPT2Config(**TINY["gpt2"])
    saved = transformers.GPT2LMHeadModel(config)
    saved.save_pretrained(tmp_path)
    model = load(f"hf:{tmp_path}")
    assert not any("random" in note for note in model.notes)
    assert all(
        torch.equal(a, b)
        for a, b in zip(saved.state_dict().values(), model.module.state_dict().values(), strict=True)
    )


def test_sizes_can_be_overridden_by_our_words(tmp_path: Path):
    folder = folder_of(tmp_path, "gpt2")
    assert load(f"hf:{folder}", overrides={"max_seq_len": 12}).module.config.n_positions == 12
    with pytest.raises(ConfigError, match="no effect"):
        load(f"hf:{folder}", overrides={"no_such_size": 3})


def test_code_of_its_own_is_never_run(tmp_path: Path):
    folder = folder_of(tmp_path, "made-up", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UntrustedCode, match="code of its own") as refused:
        load(f"hf:{folder}")
    assert refused.value.exit_code == 3
    assert not (tmp_path / "ran").exists()


def test_an_unknown_model_type_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match="made-up"):
        load(f"hf:{folder_of(tmp_path, 'made-up')}")


def test_a_folder_without_configuration(tmp_path: Path):
    with pytest.raises(UsageError, match="no config"):
        load(f"hf:{tmp_path}")


def test_offline_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(Offline) as refused:
        load("hf:nobody/no-such-model")
    assert refused.value.exit_code == 75
    assert "\n" not in refused.value.what
