"""`TrainingConfig`: familiar fields, one table, every wish honoured or refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from torchstone._errors import ConfigError
from torchstone.config.resolve import resolve
from torchstone.train.config import SECTIONS
from torchstone.train.training_config import TrainingConfig

# As users know them.
FAMILIAR = """
random_seed deterministic learning_rate batch_size epochs warmup_ratio weight_decay
max_grad_norm use_amp gradient_accumulation_steps early_stopping_patience validation_split
compile_mode compile_fullgraph compile_dynamic strategy devices num_nodes
accumulate_grad_batches precision model_name model_type vocab_size max_seq_len d_model
num_layers num_heads d_ff dropout task_name eval_dataset_id resume_from_checkpoint dataset_name
dataset_split dataset_subset max_train_samples max_val_samples checkpoint_dir
save_every_n_epochs keep_best_only wandb_project wandb_entity run_name export_bundle
export_formats export_dir created_at config_version notes
"""


def test_knows_the_familiar_fields() -> None:
    assert set(FAMILIAR.split()) <= {field.name for field in dataclasses.fields(TrainingConfig)}


def test_defaults_are_valid_and_change_nothing() -> None:
    config = TrainingConfig()
    assert config.validate() is True
    assert config.resolved() == resolve(SECTIONS)
    assert config.vocab_size is None and config.checkpoint_dir is None
    assert (config.learning_rate, config.batch_size, config.epochs, config.random_seed) == (5e-5, 4, 10, 42)


def test_every_key_has_a_section_and_every_section_key_has_a_field() -> None:
    named = {field.metadata["key"] for field in dataclasses.fields(TrainingConfig) if "key" in field.metadata}
    keys = set(resolve(SECTIONS).values())
    assert {key for key in named if not key.startswith("job.")} <= keys
    # What only a command line has: the model and the text come as objects here.
    reached_otherwise = {
        "model.target",
        "data.tokenizer",
        "data.tokenizer_vocab_size",
        "data.split_seed",
        "data.max_bytes",
        "train.dry_run",
    }
    mechanisms = {key for key in keys if key.startswith(("model.attention.", "model.mlp."))}
    assert keys - named == reached_otherwise | mechanisms


def test_values_reach_their_sections() -> None:
    config = TrainingConfig(
        learning_rate=1e-3, accumulate_grad_batches=4, precision="bf16-mixed", save_every_n_epochs=2
    ).resolved()
    assert config.optim.learning_rate == 1e-3
    assert config.train.gradient_accumulation_steps == 4
    assert config.train.precision == "bf16"
    assert config.train.checkpoint_every_epochs == 2
    assert config.sources["optim.learning_rate"] == "TrainingConfig"
    assert TrainingConfig(use_amp=True).resolved().train.precision == "bf16"
    assert TrainingConfig(model_name="mine").resolved().tracking.run_name == "mine"
    assert TrainingConfig(model_name="mine", run_name="other").resolved().tracking.run_name == "other"


def test_all_mistakes_are_told_at_once() -> None:
    config = TrainingConfig(
        learning_rate=-1.0,
        batch_size=-1,
        warmup_ratio=2.0,
        d_model=10,
        num_heads=3,
        wandb_project="mine",
        precision="16-true",
        weight_decay=float("nan"),
    )
    with pytest.raises(ConfigError) as caught:
        config.validate()
    text = str(caught.value)
    assert text.startswith("Configuration validation failed:")
    for name in (
        "learning_rate",
        "batch_size",
        "warmup_ratio",
        "num_heads=3",
        "wandb_project",
        "16-true",
        "weight_decay",
    ):
        assert name in text, name
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast", None, True])
def test_learning_rates_that_are_none(value: object) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainingConfig(learning_rate=value).validate()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wandb_project", "mine"),
        ("export_bundle", True),
        ("export_formats", ("onnx",)),
        ("model_type", "gpt"),
        ("dataset_split", "test"),
    ],
)
def test_a_wish_without_effect_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field}=.*has no effect"):
        TrainingConfig(**{field: value}).validate()  # type: ignore[arg-type]


def test_contradictions() -> None:
    with pytest.raises(ConfigError, match="contradict"):
        TrainingConfig(gradient_accumulation_steps=2, accumulate_grad_batches=4).validate()
    with pytest.raises(ConfigError, match="contradict"):
        TrainingConfig(use_amp=True, precision="32-true").validate()
    with pytest.raises(ConfigError, match="final_learning_rate_ratio"):
        TrainingConfig(schedule="constant", final_learning_rate_ratio=0.3).validate()


def test_unknown_field_suggests() -> None:
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        TrainingConfig(lerning_rate=1.0)  # type: ignore[call-arg]


def test_round_trips(tmp_path: Path) -> None:
    config = TrainingConfig(learning_rate=3e-4, max_steps=7, notes="ein Versuch")
    assert TrainingConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    path = config.save(tmp_path / "config.json")
    loaded = TrainingConfig.load(path)
    assert loaded.created_at is not None
    assert loaded.replace(created_at=None) == config
    assert json.loads(path.read_text())["learning_rate"] == 3e-4


def test_loading_what_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TrainingConfig.load(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="no JSON"):
        TrainingConfig.load(tmp_path / "bad.json")
    (tmp_path / "other.json").write_text('{"learning_rat": 1}')
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainingConfig.load(tmp_path / "other.json")


def test_saves_in_the_current_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = TrainingConfig().save()
    assert path.name.startswith("config_") and (tmp_path / path).is_file()


def test_needs_no_torch() -> None:
    code = "import sys, torchstone; torchstone.TrainingConfig().validate(); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_strategy_and_devices_take_the_familiar_spellings() -> None:
    loop = TrainingConfig(strategy="fsdp_native", devices="2", num_nodes=3).resolved().train
    assert (loop.strategy, loop.devices, loop.num_nodes) == ("fsdp", 2, 3)
    assert TrainingConfig(devices="auto").resolved().train.devices is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"strategy": "fdsp"}, "did you mean 'fsdp'"),
        ({"devices": (0, 1)}, "CUDA_VISIBLE_DEVICES"),
        ({"devices": "many"}, "devices"),
        ({"devices": 0}, "devices"),
    ],
)
def test_impossible_devices_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainingConfig(**fields).validate()
