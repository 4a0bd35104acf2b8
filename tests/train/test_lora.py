"""Low-rank adapters: the base stands still, checkpoints hold nothing of it, and peft reads what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from zoo.library import LIBRARY

import torchstone as ts
from torchstone._errors import ConfigError, ModelError
from torchstone.adapt.load import load
from torchstone.adapt.lora import LoraSpec, insert_lora, num_parameters, save_adapter
from torchstone.config.resolve import Resolved, resolve
from torchstone.tracking.checkpoint import open_checkpoint
from torchstone.train.config import SECTIONS
from torchstone.train.evaluate import EvalJob
from torchstone.train.evaluate import run as evaluate
from torchstone.train.result import TrainResult
from torchstone.train.run import TrainJob, run

TEXT = "a cat sat on a mat and a dog lay on a rug.\n" * 90
STEPS = 8
SIZES = {"d_model": 16, "num_layers": 2, "num_heads": 2, "max_seq_len": 32, "dropout": 0.1}


def settings(folder: Path, **changes: object) -> Resolved:
    (folder / "text.txt").write_text(TEXT)
    wanted = {
        "model.target": "zoo:gpt-nano",
        "data.source": folder / "text.txt", "data.tokenizer": "bytes",
        "train.lora_rank": 4, "train.lora_dropout": 0.1, "train.max_steps": STEPS,
        "train.checkpoint_every": 4, "tracking.dashboard": "n", "optim.learning_rate": 0.01,
        "optim.schedule": "constant",
    } | {f"model.{name}": size for name, size in SIZES.items()} | changes  # fmt: skip
    return resolve(SECTIONS, overrides=[(key, str(value)) for key, value in wanted.items()])


def job(folder: Path, name: str, **options: Any) -> TrainResult:
    changes = options.pop("changes", {})
    return run(
        TrainJob(settings(folder, **changes), run_dir=folder / name, cache_dir=folder / "c", **options)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    job(folder, "run")
    return folder / "run"


def test_a_checkpoint_holds_the_adapters_and_nothing_of_the_base(trained: Path) -> None:
    checkpoint = open_checkpoint(trained / "checkpoints" / f"step-{STEPS}")
    names = set(checkpoint.tensors())
    assert set(load_file(trained / "model.safetensors")) == names
    assert names and all(".lora_A." in name or ".lora_B." in name for name in names)
    # Per block: qkv 16 -> 48, out 16 -> 16, up 16 -> 64, down 64 -> 16, each with 4 (in + out) numbers.
    expected = 2 * 4 * ((16 + 48) + (16 + 16) + (16 + 64) + (64 + 16))
    assert sum(each.numel() for each in checkpoint.tensors().values()) == expected
    assert len(checkpoint.state()["optimizer"]["state"]) == len(names)


def test_the_base_stands_still_and_the_adapters_learn(trained: Path) -> None:
    model = load(trained).module
    base = load("zoo:gpt-nano", overrides=SIZES, seed=42).module
    before = base.state_dict()
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(float(each.abs().max()) > 0 for name, each in after.items() if "lora_B" in name)


def test_resumed_equals_uninterrupted_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    """Over a dropout of base and adapters, with a schedule that does not know the end."""
    job(tmp_path, "run", changes={"train.max_steps": 4})
    first = tmp_path / "run" / "checkpoints" / "step-4"
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["values"]["train.max_steps"]["value"] = STEPS
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    result = job(tmp_path, "run", resume=str(first))
    assert result.steps == STEPS and result.resumed_from
    one, other = (
        open_checkpoint(each / "checkpoints" / f"step-{STEPS}") for each in (trained, tmp_path / "run")
    )
    assert all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())


def test_another_base_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    job(
        tmp_path,
        "base",
        changes={"train.lora_rank": 0, "train.lora_dropout": "@default", "train.keep_last": 9},
    )
    on_base = {"model.target": base} | {f"model.{name}": "none" for name in SIZES}
    (base / "best").write_text("step-8\n")
    result = job(tmp_path, "run", changes={**on_base, "train.max_steps": 4})
    assert load(tmp_path / "run").module is not None
    (base / "best").write_text("step-4\n")  # other weights of the same shapes
    with pytest.raises(ModelError, match="another base model"):
        load(tmp_path / "run")
    with pytest.raises(ModelError, match="another base model"):
        job(tmp_path, "again", changes={**on_base, "train.max_steps": 4}, resume=result.checkpoint)


def test_a_run_with_adapters_is_scored_and_continues_a_text(trained: Path) -> None:
    result = evaluate(EvalJob(target=str(trained), cache_dir=trained.parent / "c"))
    assert result.recorded is not None and result.recorded["difference"] == 0.0
    model = load(trained)
    assert (
        model.task.kind == "causal-lm" and model.adapter(input_ids=torch.ones(1, 3).long()).logits is not None
    )


def test_peft_reads_the_adapter(trained: Path) -> None:
    base = load("zoo:gpt-nano", overrides=SIZES, seed=42).module
    theirs = peft.PeftModel.from_pretrained(base, trained / "adapter").eval()
    best = json.loads((trained / "report.json").read_text())["best"]["step"]
    ours = load(trained / "checkpoints" / f"step-{STEPS}").module.eval()
    ids = torch.randint(256, (2, 9))
    assert torch.equal(theirs(ids).logits, ours(ids).logits) and best is not None
    assert load_file(trained / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
def test_library_models_take_adapters_in_their_bodies_only(name: str, tmp_path: Path) -> None:
    record = next(each for each in LIBRARY if each.name == name)
    model = record.build()
    facts = ts.adapt(model, task=record.task).facts
    ids = torch.randint(3, 90, (2, 7))
    batch = {"input_ids": ids} | ({"decoder_input_ids": ids} if record.task == "seq2seq" else {})
    before = model(**batch).logits
    made = insert_lora(model, LoraSpec(rank=2, alpha=4.0), facts.output_sizes)
    trainable, total = num_parameters(model)
    assert 0 < trainable < total and torch.allclose(model(**batch).logits, before, atol=1e-5)  # B starts at 0
    assert not any("lm_head" in each or "decoder.weight" in each for each in made["kept"])
    save_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert not torch.allclose(model(**batch).logits, before)
    assert ts.adapt(model, task=record.task)(**batch).logits is not None


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.norm(self.table(input_ids))


def test_what_cannot_be_adapted_is_refused_with_a_way_out() -> None:
    with pytest.raises(ModelError, match="no layer"):
        insert_lora(Norms(), LoraSpec(rank=2, alpha=4.0))
    linear = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ModelError, match="no linear layer is called q_proj"):
        insert_lora(linear, LoraSpec(rank=2, alpha=4.0, targets=("q_proj",)))
    made = insert_lora(linear, LoraSpec(rank=2, alpha=4.0, targets=("1",)))
    assert {name.split(".")[0] for name in made["kept"]} == {"1"}
    with pytest.raises(ModelError, match="adapters already"):
        insert_lora(linear, LoraSpec(rank=2, alpha=4.0))
    with pytest.raises(ConfigError, match="lora_alpha"):
        resolve(SECTIONS, overrides=[("train.lora_alpha", "3")])


def test_python_users_train_adapters_too(tmp_path: Path) -> None:
    config = ts.TrainingConfig(
        lora_rank=2, lora_targets=("qkv",), max_steps=2, checkpoint_dir=str(tmp_path / "run"),
        dashboard=False, d_model=16, num_layers=1, num_heads=2, max_seq_len=32, vocab_size=64,
    )  # fmt: skip
    trainer = ts.Trainer("zoo:gpt-nano", config)
    result = trainer.train([torch.randint(64, (16,)) for _ in range(8)])
    assert result.steps == 2 and any("LoRA of rank 2" in each for each in result.warnings)
    assert num_parameters(trainer.model)[0] == 2 * (16 + 48)
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
