"""What a study leaves to the machine is chosen once, for all arms and for every session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torchstone._errors import ConfigError
from torchstone.study.left_open import KEPT, settled
from torchstone.study.run import StudyJob, planned

STUDY = """\
[study]
name = "open"
kind = "ablation"
seeds = [1, 2]
set = {{ "data.source" = "{text}", "data.tokenizer" = "bytes", "data.sequence_length" = 16, \
"model.d_model" = 16, "model.vocab_size" = 300, "model.num_heads" = 2, "model.num_layers" = 1, \
"model.max_seq_len" = 16, \
"train.batch_size" = 0, "train.gradient_accumulation_steps" = 0, "train.examples_per_update" = 12, \
"train.compile" = "auto" }}

[[step]]
id = "0"

[[step]]
id = "1"
parent = "0"
set = {{ "model.num_layers" = 3 }}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("\n".join(f"line {number}" for number in range(200)))
    (tmp_path / "open.toml").write_text(STUDY.format(text=tmp_path / "text.txt"))
    return str(tmp_path / "open.toml")


def test_arms_and_cells_get_one_choice_which_is_kept(study: str, tmp_path: Path) -> None:
    plan = planned(StudyJob(study, steps=("0",)))
    made = settled(plan, tmp_path / "root", device="cpu")
    sizes = {
        (each.settings.train.batch_size, each.settings.train.compile) for each in (*made.arms, *made.cells)
    }
    assert sizes == {(12, "none")}
    assert [each.id for each in made.cells] == [each.id for each in plan.cells]
    kept = json.loads((tmp_path / "root" / KEPT).read_text())
    assert "12 examples per update" in kept["why"]["train.batch_size"]
    kept["values"] |= {"train.batch_size": 3, "train.gradient_accumulation_steps": 4}
    (tmp_path / "root" / KEPT).write_text(json.dumps(kept))  # as a session with less memory would have chosen
    later = settled(planned(StudyJob(study)), tmp_path / "root", device="cpu")
    assert {each.settings.train.batch_size for each in later.cells} == {3}


def test_nothing_is_chosen_for_another_machine(study: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="for another machine"):
        settled(planned(StudyJob(study)), tmp_path / "root", where="slurm")


def test_a_study_that_leaves_nothing_open_is_left_alone(study: str, tmp_path: Path) -> None:
    said = (("train.batch_size", "4"), ("train.gradient_accumulation_steps", "3"), ("train.compile", "none"))
    text = Path(study).read_text()
    for key in (
        '"train.batch_size" = 0, ',
        '"train.gradient_accumulation_steps" = 0, ',
        ', "train.compile" = "auto"',
    ):
        text = text.replace(key, "")
    Path(study).write_text(text)
    plan = planned(StudyJob(study, overrides=said))
    assert settled(plan, tmp_path / "root") is plan and not (tmp_path / "root").exists()
