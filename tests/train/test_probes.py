"""What is measured inside a model at each validation is stored, and training does not notice it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.data.task import TaskSpec
from torchstone.nn import GPT, AttentionConfig, GPTConfig
from torchstone.tracking.store import Store
from torchstone.train.trainer import Trainer
from torchstone.train.training_config import TrainingConfig

TASK = TaskSpec.language_modeling(vocab_size=11)


def rows_of(size: int, seed: int) -> list[Tensor]:
    """Ragged, so that batches are padded."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 11, (5 + place % 4,), generator=generator) for place in range(size)]


def trained(folder: Path, module: nn.Module | None = None, **changes: Any) -> tuple[str, dict[Any, float]]:
    """Digest of the trained weights, and the rows of metrics by key and step."""
    torch.manual_seed(0)
    attention = AttentionConfig(name="ra", alpha=0.3, learn_alpha=True, window=3, warmup_steps=4)
    model = module or GPT(
        GPTConfig(
            vocab_size=11,
            max_seq_len=8,
            d_model=8,
            num_layers=2,
            num_heads=2,
            dropout=0.2,
            attention=attention,
        )
    )
    config = TrainingConfig(
        checkpoint_dir=str(folder), batch_size=3, epochs=2, learning_rate=0.05, dashboard=False,
        ema_decay=0.5, **changes,
    )  # fmt: skip
    Trainer(model, config, task=TASK).train(rows_of(8, 0), rows_of(5, 1))
    with Store.open(folder.parent / "store.db") as store:
        run_id = store.runs(limit=1)[0].run_id
        rows = {(row.key, row.step): row.value for row in store.metrics(run_id) if "_per_s" not in row.key}
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), rows


def test_training_is_the_same_to_the_bit_with_and_without(tmp_path: Path) -> None:
    plain, rows = trained(tmp_path / "plain" / "run")
    watched, more = trained(tmp_path / "watched" / "run", attention_samples=4)
    assert plain == watched
    assert rows == {key: value for key, value in more.items() if not key[0].startswith("attention/")}
    alpha = [rows["gates/blocks.1.attention.reciprocity/alpha", step] for step in (3, 6)]
    assert 0 < alpha[0] < alpha[1]  # it warms up
    looks = {key: value for key, value in more.items() if key[0].startswith("attention/")}
    names = {f"attention/blocks.{b}/{n}/{h}" for b in "01" for n in ("entropy", "reciprocity") for h in "01"}
    assert looks.keys() == {(name, step) for name in names for step in (3, 6)}
    assert all(0 < each < 2.08 for key, each in looks.items() if "entropy" in key[0])  # ln 8
    assert all(-1 <= each <= 1 for key, each in looks.items() if "reciprocity" in key[0])


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(11, 11))
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids] * self.temperature


def test_a_stranger_s_scalars_are_told_and_its_attention_is_refused(tmp_path: Path) -> None:
    _, rows = trained(tmp_path / "run", Foreign())
    assert {step for key, step in rows if key == "gates/model/temperature"} == {3, 6}
    with pytest.raises(ConfigError, match="attention_samples") as refused:
        trained(tmp_path / "other" / "run", Foreign(), attention_samples=1)
    assert "not ours" in refused.value.why and not (tmp_path / "other").exists()
