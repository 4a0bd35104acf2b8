"""Pruning in a run: sparsity is measured at every validation, survives a resume, holds for averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import torchstone as ts
from torchstone._errors import ConfigError
from torchstone.config.resolve import resolve
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.tracking.checkpoint import newest_good
from torchstone.train.assembly import refuse_split
from torchstone.train.config import SECTIONS
from torchstone.train.run import TrainJob, run

SIZES: dict[str, Any] = {"vocab_size": 17, "max_seq_len": 8, "d_model": 16, "num_layers": 2, "num_heads": 2}


class Seen:
    def __init__(self) -> None:
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.steps = 0

    def on_eval(self, info: Any) -> None:
        self.evaluations.append((info.step, info.metrics))

    def on_step(self, info: Any) -> None:
        self.steps += 1


class Cut(Exception):
    pass


class CutAtTen(Seen):
    def on_step(self, info: Any) -> None:
        if info.step == 10:
            raise Cut


def train(run_dir: Path, hooks: Seen | None = None, **fields: Any) -> tuple[GPT, Seen, Any]:
    torch.manual_seed(0)
    module, seen = GPT(GPTConfig(**SIZES)), hooks or Seen()
    config = ts.TrainingConfig(
        **{
            "batch_size": 2,
            "epochs": 1,
            "learning_rate": 0.01,
            "eval_every": 4,
            "checkpoint_every": 4,
            "log_every": 4,
            "dashboard": False,
            "checkpoint_dir": str(run_dir),
            **fields,
        }
    )
    rows = [(torch.arange(8) * 3 + n) % 17 for n in range(40)]
    task = ts.TaskSpec.language_modeling(17)
    result = ts.Trainer(module, config, task=task, hooks=seen, device="cpu").train(rows, rows[:4])
    return module, seen, result


PRUNED: dict[str, Any] = {
    "prune_method": "state",
    "prune_sparsity": 0.6,
    "prune_every": 3,
    "prune_start": 0.1,
    "prune_end": 0.8,
}


def test_every_validation_tells_the_sparsity(tmp_path: Path) -> None:
    module, seen, _ = train(tmp_path / "run", **PRUNED)
    told = [metrics["prune/sparsity"] for _, metrics in seen.evaluations]
    assert told == sorted(told) and told[0] == 0.0 < told[1]
    assert told[-1] == pytest.approx(0.6, abs=1e-3)
    blocks = torch.cat([each.flatten() for each in module.blocks.parameters() if each.ndim == 2])
    assert float((blocks == 0).float().mean()) == pytest.approx(0.6, abs=1e-3)
    _, plain, _ = train(tmp_path / "plain")
    assert plain.steps == seen.steps
    assert "prune/sparsity" not in plain.evaluations[-1][1]


def test_a_dry_run_tells_what_will_be_pruned_and_how_much_memory_it_takes(tmp_path: Path) -> None:
    def plan(**values: Any) -> dict[str, str]:
        settings = resolve(SECTIONS).with_values(
            {
                "model.target": "zoo:gpt-nano",
                "data.source": "builtin:stdlib",
                "train.max_steps": 100,
                "train.dry_run": True,
                **values,
            }
        )
        lines = run(TrainJob(settings, run_dir=tmp_path / "run")).plan
        return {name: words.strip() for name, _, words in (line.partition(" ") for line in lines)}

    def mebibytes(told: dict[str, str]) -> int:
        return int(told["memory"].split()[2].replace(",", ""))

    plain, pruned = plan(), plan(**{"prune.method": "movement"})
    assert "pruning" not in plain
    assert pruned["pruning"].startswith("movement: 50% of ") and "by step 75" in pruned["pruning"]
    assert mebibytes(plan(**{"optim.name": "sgd"})) < mebibytes(plain) < mebibytes(pruned)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_has_the_same_weights(tmp_path: Path) -> None:
    whole, _, _ = train(tmp_path / "whole", **PRUNED)
    run_dir = tmp_path / "cut"
    with pytest.raises(Cut):
        train(run_dir, CutAtTen(), **PRUNED)
    found = newest_good(run_dir / "checkpoints")
    assert found is not None and found.step == 8
    resumed, _, _ = train(run_dir, **PRUNED, resume_from_checkpoint="auto")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_averages_are_as_sparse(tmp_path: Path) -> None:
    _, seen, _ = train(tmp_path / "run", **PRUNED, ema_decay=0.9)
    assert seen.evaluations[-1][1]["prune/sparsity"] == pytest.approx(0.6, abs=1e-3)
    found = newest_good(tmp_path / "run" / "checkpoints")
    assert found is not None
    average = found.state()["extra"]["average"]
    blocks = [each.flatten() for name, each in average.items() if "blocks" in name and each.ndim == 2]
    assert float((torch.cat(blocks) == 0).float().mean()) == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"prune.method": "magnitude", "train.strategy": "fsdp"}, "fsdp"),
        ({"prune.method": "magnitude", "train.lora_rank": 2}, "lora_rank"),
    ],
)
def test_what_pruning_does_not_go_with_is_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        refuse_split(resolve(SECTIONS).with_values(knobs))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "adamwprune"}, "prune.method"),
        ({"optimizer": "adamwprune", "prune_method": "magnitude"}, "prune.method=state"),
        ({"optimizer": "sgd", "prune_method": "state"}, "moments"),
        ({"prune_method": "bitter4", "prune_scope": "layer"}, "depth"),
        ({"prune_sparsity": 0.3}, "no effect"),
        ({"prune_method": "magnitude", "prune_pattern": "2:4", "prune_sparsity": 0.3}, "no effect"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        train(tmp_path / "run", **fields)
    assert words in str(refused.value)
