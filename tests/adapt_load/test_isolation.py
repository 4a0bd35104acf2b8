"""The way in and out of the isolated worker, as the product goes it: a process started alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchstone._errors import ModelError, UntrustedCode, UsageError
from torchstone.adapt import worker
from torchstone.adapt.isolate import Limits, PreloadedWorkers, environment, run_isolated
from torchstone.adapt.stage import bring_inside

DESCRIBE = "torchstone.adapt.load:describe"
SMALL = """
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
""".lstrip()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text(SMALL)
    return tmp_path / "model"


def test_a_worker_started_alone_answers_and_says_what_held(model: Path, tmp_path: Path):
    result = run_isolated(DESCRIBE, {"target": str(model)}, tmp_path / "private", Limits(wall_s=60))
    assert result.value["class"] == "Net"
    assert result.value["parameters"] == 3
    assert "watchman (audit hook)" in result.held
    assert result.blocked == ()


def test_a_worker_started_alone_blocks(model: Path, tmp_path: Path):
    (model / "model.py").write_text("import os\nos.system('true')\n" + SMALL)
    with pytest.raises(UntrustedCode, match="tried to run a shell command") as refused:
        run_isolated(DESCRIBE, {"target": str(model)}, tmp_path / "private", Limits(wall_s=60))
    assert refused.value.exit_code == 3


def test_ordinary_training_work_is_not_taken_for_an_attack(workers: PreloadedWorkers, tmp_path: Path):
    """Forward, backward, optimizer, half precision, saving, hooks, threads: what checks do."""
    result = run_isolated("native_jobs:ordinary_work", {}, tmp_path, workers=workers)
    assert result.value["loss"] > 0
    assert (tmp_path / "kept.safetensors").is_file()


def test_the_parent_s_torch_is_its_own(workers: PreloadedWorkers, model: Path, tmp_path: Path):
    save, call = torch.save, torch.nn.Module.__call__
    (model / "model.py").write_text("import torch\ntorch.save = torch.nn.Module.__call__ = None\n" + SMALL)
    run_isolated(DESCRIBE, {"target": str(model)}, tmp_path / "private", workers=workers)
    assert torch.save is save
    assert torch.nn.Module.__call__ is call


def test_errors_of_the_job_come_back_as_ours(workers: PreloadedWorkers, model: Path, tmp_path: Path):
    (model / "model.py").write_text(
        "from torch import nn\nclass A(nn.Module): ...\nclass B(nn.Module): ...\n"
    )
    with pytest.raises(UsageError, match="A, B"):
        run_isolated(DESCRIBE, {"target": str(model)}, tmp_path / "private", workers=workers)


def test_an_answer_beyond_the_limit_is_refused(workers: PreloadedWorkers, tmp_path: Path):
    with pytest.raises(ModelError, match="larger than the limit"):
        run_isolated(
            "native_jobs:huge_answer", {}, tmp_path, Limits(wall_s=20, result_bytes=10_000), workers=workers
        )


def test_an_answer_that_is_no_object_is_refused(workers: PreloadedWorkers, tmp_path: Path):
    with pytest.raises(ModelError, match="no JSON object"):
        run_isolated("native_jobs:list_answer", {}, tmp_path, Limits(wall_s=20), workers=workers)


def test_control_codes_in_an_answer_are_defused(workers: PreloadedWorkers, tmp_path: Path):
    result = run_isolated("native_jobs:escape_answer", {}, tmp_path, Limits(wall_s=20), workers=workers)
    (name, texts), *_ = result.value.items()
    assert (name, texts) == ("name\ufffd[2J", ["\ufffd]0;owned\ufffd"])


def test_only_our_signature_opens_a_frame():
    frame = worker.sealed({"kind": "result", "value": {}}, "key").rstrip(b"\n")
    assert worker.opened(frame, "key") == {"kind": "result", "value": {}}
    assert worker.opened(frame, "other key") is None
    assert worker.opened(frame.replace(b"result", b"walls!"), "key") is None
    assert worker.opened(b"", "key") is None


def test_nothing_of_our_environment_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "GITHUB_TOKEN",
        "WANDB_API_KEY",
        "PYTHONPATH",
        "LD_PRELOAD",
    ):
        monkeypatch.setenv(name, "token-5d20")
    assert "token-5d20" not in environment(tmp_path).values()


def test_links_beside_a_model_are_not_brought_inside(model: Path, tmp_path: Path):
    (tmp_path / "secret.py").write_text("SECRET = 1\n")
    (model / "linked.py").symlink_to(tmp_path / "secret.py")
    (model / "beside.py").write_text("")
    (model / "package").mkdir()
    (model / "package" / "__init__.py").write_text("")
    (model / ".env").write_text("SECRET=1")
    staged = bring_inside(str(model), tmp_path / "private")
    inside = {
        str(each.relative_to(staged.target)) for each in Path(staged.target).rglob("*") if each.is_file()
    }
    assert inside == {"model.py", "beside.py", "package/__init__.py"}


def test_a_class_can_be_named_inside(model: Path, tmp_path: Path, workers: PreloadedWorkers):
    (model / "model.py").write_text(
        SMALL + "class Other(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 1)\n"
    )
    target = f"{model / 'model.py'}:Other"
    result = run_isolated(DESCRIBE, {"target": target}, tmp_path / "private", workers=workers)
    assert result.value["parameters"] == 5


def test_a_worker_that_was_ended_leaves_the_next_one_untouched(
    workers: PreloadedWorkers, model: Path, tmp_path: Path
):
    (model / "model.py").write_text("import os\nos._exit(9)\n")
    with pytest.raises(ModelError, match="exit code 9"):
        run_isolated(DESCRIBE, {"target": str(model)}, tmp_path / "a", workers=workers)
    (model / "model.py").write_text(SMALL)
    assert (
        run_isolated(DESCRIBE, {"target": str(model)}, tmp_path / "b", workers=workers).value["class"]
        == "Net"
    )
