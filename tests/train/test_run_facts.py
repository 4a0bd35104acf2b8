"""What a run was made of is in the store: once per session, and as it was, not as it was wished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchstone.config.resolve import resolve
from torchstone.tracking.marks import marks
from torchstone.tracking.store import Store
from torchstone.train.config import SECTIONS
from torchstone.train.run import TrainJob, run

SIZES = {"d_model": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 16}


def trained(folder: Path, *, text: Path, **keys: Any) -> dict[str, Any]:
    values = {f"model.{name}": size for name, size in SIZES.items()} | {
        "data.source": text, "data.tokenizer": "bytes", "train.max_steps": 2, "tracking.dashboard": "n",
    } | keys  # fmt: skip
    settings = resolve(SECTIONS, overrides=[(key, str(value)) for key, value in values.items()])
    result = run(TrainJob(settings, run_dir=folder, device="cpu"))
    with Store.open(folder.parent / "store.db", readonly=True) as store:
        (event,) = store.events_of("facts")[result.run_id]
        tags = marks(store)[result.run_id].tags
    return event.data | {"tags": tags, "run": result}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("a cat sat on a mat.\n" * 100)
    return path


def test_facts_of_a_run(tmp_path: Path, text: Path) -> None:
    facts = trained(
        tmp_path / "a", text=text,
        **{"train.gradient_accumulation_steps": 2, "train.batch_size": 3, "tracking.tags": "arm-a,seed-1"},
    )  # fmt: skip
    assert facts["schema"] == "torchstone.facts/1"
    assert facts["planned_steps"] == 2
    assert facts["batch"] == {"examples": 3, "accumulation": 2, "effective": 6}
    assert facts["compile"] == {"mode": "none", "why": ""}
    assert facts["hardware"]["device"] == "cpu"
    assert facts["hardware"]["processes"] == 1
    assert facts["environment"]["torch"]["version"]
    assert facts["tags"] == {"arm-a", "seed-1"}
    assert "command" not in facts["environment"]


def test_data_is_known_by_content(tmp_path: Path, text: Path) -> None:
    one = trained(tmp_path / "a", text=text)
    same = trained(tmp_path / "b", text=text, **{"train.random_seed": 7})
    text.write_text("a dog sat on a mat.\n" * 100)
    other = trained(tmp_path / "c", text=text)
    assert one["data"] == same["data"]
    assert one["data"]["train"] != other["data"]["train"]


def test_a_table_of_labels_is_known_by_content(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    found = []
    for number, word in enumerate(("good", "good", "fine")):
        table.write_text("text,label\n" + f"a {word} day,0\na bad day,1\n" * 40)
        found.append(
            trained(tmp_path / str(number), text=table, **{"data.task": "text-classification"})["data"]
        )
    assert found[0] == found[1] != found[2]
    assert found[0]["train"].count("/") == 2
