"""Averages, recomputed blocks, compilation, formats, monitors, certificate: what each promises."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from zoo.documented import schema

import torchstone as ts
from torchstone._errors import ConfigError
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.tracking.store import Store
from torchstone.train.attention_kernel import observed_kernels
from torchstone.train.average import WeightAverage
from torchstone.train.certify import certify
from torchstone.train.config import SECTIONS
from torchstone.train.levers import Choice, pulled
from torchstone.train.run import TrainJob

VOCABULARY = 19


def gpt(dropout: float = 0.1, num_layers: int = 2) -> GPT:
    torch.manual_seed(1)
    return GPT(
        GPTConfig(
            vocab_size=VOCABULARY,
            max_seq_len=8,
            d_model=16,
            num_layers=num_layers,
            num_heads=2,
            dropout=dropout,
        )
    )


def rows(number: int, seed: int = 0) -> list[Tensor]:
    first = torch.randint(VOCABULARY, (number, 1), generator=torch.Generator().manual_seed(seed))
    return list((first + 5 * torch.arange(8)) % VOCABULARY)


def train(folder: Path, module: nn.Module | None = None, hooks: Any = None, **changes: Any) -> Any:
    settings: dict[str, Any] = {"learning_rate": 0.01, "epochs": 2, "dashboard": False}
    resume = changes.pop("resume", None)
    settings |= {"checkpoint_dir": str(folder), **changes}
    trainer = ts.Trainer(
        module or gpt(), ts.TrainingConfig(**settings), task=ts.TaskSpec.language_modeling(VOCABULARY),
        hooks=hooks, device="cpu",
    )  # fmt: skip
    return trainer, trainer.train(rows(16), rows(4, seed=1), resume=resume)


def test_averages_follow_their_formula() -> None:
    module = nn.Linear(3, 2)
    average, decay = WeightAverage(module, 0.75), 0.75
    expected = module.weight.detach().double().clone()
    for _ in range(20):
        with torch.no_grad():
            module.weight += torch.randn_like(module.weight)
        average.follow()
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
    torch.testing.assert_close(average.tensors()["weight"].double(), expected, rtol=1e-6, atol=1e-6)
    refused = {name: each.clone() for name, each in average.tensors().items()}
    average.follow(bad=torch.ones(()))
    assert all(torch.equal(each, refused[name]) for name, each in average.tensors().items())
    own = module.weight.detach().clone()
    with average.in_place():
        assert torch.equal(module.weight, average.tensors()["weight"])
    assert torch.equal(module.weight, own)


def test_averages_are_validated_saved_and_resumed(tmp_path: Path) -> None:
    trainer, whole = train(tmp_path / "a", ema_decay=0.9)
    _, plain = train(tmp_path / "b")
    assert whole["loss_history"] == plain["loss_history"], "averaging does not touch the training"
    assert whole["val_loss_history"] != plain["val_loss_history"]
    saved = load_file(whole.model_path)
    assert not torch.equal(
        saved["token_embedding.weight"], trainer.model.state_dict()["token_embedding.weight"]
    )

    class StopAt:
        def on_step(self, info: Any) -> None:
            if info.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(ts.train.Stopped):
        train(tmp_path / "c", ema_decay=0.9, hooks=StopAt())
    _, resumed = train(tmp_path / "c", ema_decay=0.9, resume="auto")
    again = load_file(resumed.model_path)
    assert saved.keys() == again.keys() and all(torch.equal(saved[name], again[name]) for name in saved)


def test_recomputed_blocks_give_the_same_bits(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "a")
    recomputed, _ = train(tmp_path / "b", gradient_checkpointing=True)
    first, second = plain.model.state_dict(), recomputed.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "forward" not in vars(recomputed.model.blocks[0]), "the model is given back as it came"


def test_recomputed_blocks_keep_fewer_activations(tmp_path: Path) -> None:
    """What autograd saves for the backward pass, in bytes."""
    from torchstone.train.recompute import recomputed_blocks

    module, ids = gpt(num_layers=4), torch.stack(rows(4))

    def saved() -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(ids).logits.sum()
        return total

    whole = saved()
    with recomputed_blocks(module, lambda: module(ids)) as blocks:
        assert blocks == [f"blocks.{each}" for each in range(4)]
        assert saved() < 0.6 * whole


def test_recomputing_a_model_without_blocks_is_refused(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY))
    with pytest.raises(ConfigError, match="gradient_checkpointing has no effect"):
        train(tmp_path, flat, gradient_checkpointing=True)


def test_a_model_that_cannot_be_compiled_trains_uncompiled_and_says_why(tmp_path: Path) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

        def forward(self, input_ids: Tensor) -> Tensor:
            if torch.compiler.is_compiling():
                raise RuntimeError("not with me")
            return self.head(self.embed(input_ids))

    torch.manual_seed(0)
    _, result = train(tmp_path, Stubborn(), compile_mode="default", compile_fullgraph=True)
    assert result.status == "completed"
    assert any("torch.compile was given up" in each for each in result.warnings)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_learn_as_fp32_does(tmp_path: Path, precision: str) -> None:
    _, plain = train(tmp_path / "a", epochs=3)
    trainer, short = train(tmp_path / "b", epochs=3, precision=precision)
    assert short.final["val/loss"] == pytest.approx(plain.final["val/loss"], rel=0.03)
    assert {each.dtype for each in trainer.model.parameters()} == {torch.float32}


def test_tf32_without_a_gpu_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tf32 has no effect here"):
        train(tmp_path / "run", precision="tf32")
    assert not (tmp_path / "run").exists()


def test_switches_of_torch_are_put_back(tmp_path: Path) -> None:
    before = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    train(tmp_path / "a", deterministic=True, epochs=1)
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_layers_are_watched_and_odd_ones_named(tmp_path: Path) -> None:
    module = gpt(dropout=0.0)
    with torch.no_grad():
        module.blocks[0].mlp.out.weight *= 1e9
    trainer, result = train(tmp_path / "run", module, layers_every=2, epochs=1)
    with Store.open(tmp_path / "store.db") as store:
        rows_found = store.metrics(result.run_id, "layers/blocks.0.mlp.out/weight_norm")
        assert [row.step for row in rows_found] == [1, 2, 4]
        keys = {row.key for row in store.metrics(result.run_id)}
    owners = {name.rpartition(".")[0] for name, _ in trainer.model.named_parameters()}
    assert {f"layers/{owner}/grad_norm" for owner in owners} <= keys
    assert any(each.startswith("layer ") for each in result.warnings)


def test_what_is_used_is_told_at_the_start_and_epochs_are_timed(tmp_path: Path) -> None:
    class Listener:
        def __init__(self) -> None:
            self.settings: dict[str, str] = {}
            self.epochs: list[Any] = []

        def on_start(self, info: Any) -> None:
            self.settings = info.settings

        def on_epoch(self, info: Any) -> None:
            self.epochs.append(info)

    heard = Listener()
    train(tmp_path, hooks=heard)
    assert {"device", "memory", "precision", "optimizer", "attention", "batch"} <= set(heard.settings)
    assert heard.settings["attention"] == "written out (softmax) in 2 layers", "dropout rules flash out here"
    assert [each.epoch for each in heard.epochs] == [0, 1]
    assert all(0 < each.row["eval_duration"] < each.row["epoch_duration"] for each in heard.epochs)


def test_the_kernel_is_the_one_that_ran() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, batch_first=True)
    states = torch.randn(2, 5, 16)
    assert observed_kernels(nn.Sequential(layer), lambda: layer(states)) == {
        "0.self_attn": "written out (softmax)"
    }
    module = gpt()
    ids = torch.stack(rows(2))
    from torch.nn.attention import SDPBackend, sdpa_kernel

    assert set(observed_kernels(module.eval(), lambda: module(ids)).values()) == {"flash (cpu)"}
    with sdpa_kernel(SDPBackend.MATH):
        seen = observed_kernels(module, lambda: module(ids))
    assert set(seen.values()) == {"written out (softmax)"}


def job(tmp_path: Path, code: str) -> TrainJob:
    from torchstone.config.resolve import resolve

    (tmp_path / "model.py").write_text(code)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    settings = resolve(
        SECTIONS,
        overrides=[
            ("model.target", str(tmp_path / "model.py")),
            ("data.source", str(tmp_path / "text.txt")),
            ("data.task", "causal-lm"),
            ("data.sequence_length", "8"),
        ],
    )
    return TrainJob(settings, device="cpu", cache_dir=tmp_path / "cache")


MODEL = """
import time, torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size=300):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, 8)
        self.drop = nn.Dropout(0.1)
        self.odd = Odd()
        self.head = nn.Linear(8, vocab_size)
    def forward(self, input_ids):
        return self.head(self.odd(self.drop(self.embed(input_ids))))

class Odd(nn.Module):
    def forward(self, x):
        return x{}
"""


def test_a_certificate_for_a_sound_model(tmp_path: Path) -> None:
    found = certify(job(tmp_path, MODEL.format("")), 2)
    assert found.equal and found.operations > 20 and found.checksum
    jsonschema.validate(found.to_dict(), schema("torchstone.certificate/1"))


def test_a_certificate_names_the_operation_that_differs(tmp_path: Path) -> None:
    found = certify(job(tmp_path, MODEL.format(" * (1 + time.time() % 1)")), 2)
    assert not found.equal and found.step == 1
    assert (found.module, found.operation) == ("odd", "mul")
    assert "odd" in found.sentence


def test_levers_are_probed_once_and_kept_for_the_resumed_run(tmp_path: Path) -> None:
    class Heard:
        def __init__(self, stop_at: int | None = None) -> None:
            self.stop_at = stop_at
            self.settings: dict[str, str] = {}

        def on_start(self, info: Any) -> None:
            self.settings = info.settings

        def on_step(self, info: Any) -> None:
            if info.step == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

    first = Heard(stop_at=3)
    with pytest.raises(ts.train.Stopped):
        train(tmp_path / "run", speed="probe", hooks=first)
    kept = json.loads((tmp_path / "run" / "levers.json").read_text())
    assert set(kept["gains"]) >= {"attention", "compile"} and not kept["bf16"]
    assert "measured" in first.settings["levers"]

    (tmp_path / "run" / "levers.json").write_text(json.dumps({**kept, "threads": 3}))
    second = Heard()
    _, result = train(tmp_path / "run", speed="probe", resume="auto", hooks=second)
    assert result.status == "completed" and "3 threads" in second.settings["levers"], "not probed again"


def test_levers_put_back_what_they_changed() -> None:
    threads = torch.get_num_threads()
    with pulled(Choice(threads=threads + 1, attention="written out")):
        assert torch.get_num_threads() == threads + 1
        module = gpt(dropout=0.0)
        ids = torch.stack(rows(2))
        assert set(observed_kernels(module, lambda: module(ids)).values()) == {"written out (softmax)"}
    assert torch.get_num_threads() == threads
