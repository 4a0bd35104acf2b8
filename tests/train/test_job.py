"""`train/run.py`: the job from a resolved configuration, as the command line starts it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from torchstone._errors import ConfigError, DataError, Interrupted, RunLocked, UntrustedCode, UsageError
from torchstone._files import read_json
from torchstone.config.resolve import Resolved, resolve
from torchstone.tracking.run_folder import RunFolder
from torchstone.train.config import SECTIONS
from torchstone.train.hooks import StepInfo
from torchstone.train.run import TrainJob, run
from torchstone.train.signals import leave_at_once


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Resolved]:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(5):
        lines = [f"def function_{number}_{line}(x):\n    return x + {line}\n" for line in range(30)]
        (text / f"{number}.py").write_text("\n".join(lines))

    def make(**changes: Any) -> Resolved:
        values: dict[str, Any] = {
            "data.source": str(text),
            "data.sequence_length": 32,
            "model.vocab_size": 300,
            "model.d_model": 32,
            "model.num_layers": 1,
            "model.num_heads": 2,
            "optim.learning_rate": 0.003,
            "train.max_steps": 6,
            "tracking.dashboard": False,
        }
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        return resolve(SECTIONS).with_values(values)

    return make


@pytest.fixture
def job(tmp_path: Path, settings: Callable[..., Resolved]) -> Callable[..., TrainJob]:
    def make(changes: dict[str, Any] | None = None, **fields: Any) -> TrainJob:
        fields = {"run_dir": tmp_path / "runs" / "one", "device": "cpu", **fields}
        return TrainJob(settings(**(changes or {})), cache_dir=tmp_path / "cache", **fields)

    return make


Make = Callable[..., TrainJob]


def weights(run_dir: str | Path, step: int) -> dict[str, Any]:
    files = read_json(Path(run_dir) / "checkpoints" / f"step-{step}" / "manifest.json")["files"]
    return {"model": files["model.safetensors"]["sha256"]}


def test_trains_on_text_and_keeps_what_generates(job: Make) -> None:
    result = run(job())
    assert (result.status, result.steps, result.exit_code) == ("completed", 6, 0)
    assert result.final["val/loss"] is not None
    assert (Path(result.run_dir) / "tokenizer" / "tokenizer.json").is_file()
    manifest = read_json(Path(result.run_dir) / "checkpoints" / "step-6" / "manifest.json")
    assert manifest["schema"] == "torchstone.checkpoint/1"
    assert manifest["model"]["target"] == "zoo:gpt-nano"
    assert manifest["model"]["config"]["d_model"] == 32
    text = result.sample(8, prompt="def ")
    assert text is not None and text.startswith("def ")


def test_same_seed_same_bits_and_other_seed_other_bits(job: Make, tmp_path: Path) -> None:
    first = run(job(run_dir=tmp_path / "a"))
    second = run(job(run_dir=tmp_path / "b"))
    third = run(job({"train.random_seed": 1}, run_dir=tmp_path / "c"))
    assert weights(first.run_dir, 6) == weights(second.run_dir, 6) != weights(third.run_dir, 6)


def test_dry_run_leaves_the_disk_as_it_was(job: Make, tmp_path: Path) -> None:
    run(job({"train.dry_run": True}, run_dir=None))  # fills the caches
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    result = run(job({"train.dry_run": True}))
    assert result.status == "planned" and result.exit_code == 0
    plan = "\n".join(result.plan)
    for word in ("zoo:gpt-nano", "parameters", "causal-lm", "tokens", "6 (", "MiB", "cpu, fp32", "one"):
        assert word in plan
    assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))


def test_untrusted_code_is_refused_before_anything_is_written(job: Make, tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.write_text("raise SystemExit('was run')")
    with pytest.raises(UntrustedCode) as caught:
        run(job({"model.target": str(model), "model.vocab_size": None}, trust=False))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "runs").exists()


def test_resume_refuses_another_configuration_and_names_the_keys(job: Make, tmp_path: Path) -> None:
    run(job())
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        run(job({"train.max_steps": 9, "optim.beta1": 0.8}, resume="auto"))
    assert caught.value.exit_code == 2
    assert "train.max_steps was 6, is now 9" in caught.value.why
    assert "optim.beta1 was 0.9, is now 0.8" in caught.value.why
    with pytest.raises(UsageError, match="holds a run"):
        run(job({"data.source": "/nowhere"}))  # refused before anything is read
    assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))


def test_auto_without_a_folder_asks_which(job: Make) -> None:
    with pytest.raises(UsageError, match="which run"):
        run(job(run_dir=None, resume="auto"))


def test_max_time_is_no_other_configuration(job: Make) -> None:
    stopped = run(job({"train.max_time_s": 1e-6}))
    assert (stopped.status, stopped.exit_code) == ("interrupted", 75)
    assert run(job(resume="auto")).status == "completed"


def test_resume_takes_what_changes_no_result(job: Make) -> None:
    """A machine with fewer cores, or a run that shall keep more: the same run, the same bits."""
    whole = run(job(run_dir=None))
    stopped = run(job({"train.max_time_s": 1e-6}))
    assert stopped.status == "interrupted" and stopped.steps < 6
    resumed = run(job({"data.num_workers": 1, "train.keep_last": 5, "tracking.run_name": "n"}, resume="auto"))
    assert (resumed.status, resumed.steps) == ("completed", 6)
    assert weights(resumed.run_dir, 6) == weights(whole.run_dir, 6)


def test_a_locked_run_is_refused_with_its_process(job: Make, tmp_path: Path) -> None:
    class Stop:
        def on_step(self, info: StepInfo) -> None:
            if info.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    assert run(job(hooks=(Stop(),))).exit_code == 143
    with (
        RunFolder.open(tmp_path / "runs" / "one").locked(),
        pytest.raises(RunLocked, match=str(os.getpid())) as caught,
    ):
        run(job(resume="auto"))
    assert caught.value.exit_code == 75
    resumed = run(job(resume="auto"))
    whole = run(job(run_dir=tmp_path / "whole"))
    assert weights(resumed.run_dir, 6) == weights(whole.run_dir, 6)


def test_masked_language_modelling_on_text(job: Make) -> None:
    result = run(job({"data.task": "masked-lm"}))
    assert result.status == "completed" and result.tokens < 6 * 4 * 32 / 2
    assert any("hides tokens" in each for each in result.warnings)


def test_a_task_that_text_does_not_train_is_told(job: Make) -> None:
    with pytest.raises(DataError, match="holds no images"):
        sizes = {"model.vocab_size": None, "model.d_model": None, "model.num_layers": None}
        sizes |= {"data.sequence_length": None}
        run(job({"model.target": "zoo:lenet5", "model.num_heads": None, **sizes}))


def test_a_failing_report_does_not_lose_the_run(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchstone.report.dashboard as dashboard

    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(dashboard, "write_dashboard", fail)
    result = run(job({"tracking.dashboard": True}))
    assert result.status == "completed"
    assert any("no ink" in each for each in result.warnings)


def test_a_signal_before_training_leaves_at_once() -> None:
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)):
        with pytest.raises(Interrupted) as caught, leave_at_once():
            os.kill(os.getpid(), number)
        assert caught.value.exit_code == code


@pytest.mark.parametrize("event", ["on_start", "on_eval", "on_checkpoint", "on_end"])
def test_a_signal_at_any_turn_loses_nothing(job: Make, tmp_path: Path, event: str) -> None:
    class Stop:
        def __init__(self) -> None:
            setattr(self, event, self.stop)

        def stop(self, info: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    changes = {"train.eval_every": 2, "data.max_val_samples": 4}
    result = run(job(changes, hooks=(Stop(),)))
    assert result.exit_code == 143
    assert result.status == ("completed" if event == "on_end" else "interrupted")
    resumed = run(job(changes, resume="auto"))
    whole = run(job(changes, run_dir=tmp_path / "whole"))
    assert weights(resumed.run_dir, 6) == weights(whole.run_dir, 6)
    assert resumed.final == whole.final and resumed.best["step"] == whole.best["step"]


def test_a_run_killed_before_its_first_file_is_begun_again(job: Make, tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "runs" / "one", name="one")
    result = run(job(resume="auto"))
    assert result.status == "completed" and result.resumed_from is None
    assert (tmp_path / "runs" / "one" / "config.json").is_file()


def test_deterministic_mode_is_given_back(job: Make) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    run(job({"train.deterministic": True, "train.max_steps": 1}))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.batch_size", 2),
        ("train.gradient_accumulation_steps", 2),
        ("train.random_seed", 3),
        ("train.precision", "bf16"),
        ("optim.learning_rate", 0.01),
        ("optim.weight_decay", 0.5),
        ("optim.beta1", 0.5),
        ("optim.beta2", 0.5),
        ("optim.eps", 1e-2),
        ("optim.schedule", "constant"),
        ("optim.warmup_ratio", 0.9),
        ("optim.final_learning_rate_ratio", 0.9),
        ("optim.max_grad_norm", 0.01),
        ("data.sequence_length", 16),
        ("data.max_train_samples", 3),
    ],
)
def test_keys_that_must_change_the_weights_do(job: Make, tmp_path: Path, key: str, value: Any) -> None:
    plain = run(job(run_dir=tmp_path / "plain"))
    changed = run(job({key: value}, run_dir=tmp_path / "changed"))
    assert weights(plain.run_dir, plain.steps) != weights(changed.run_dir, changed.steps)


def test_keys_that_change_the_course_do(job: Make, tmp_path: Path) -> None:
    def steps_with(**changes: Any) -> list[str]:
        place = tmp_path / "-".join(f"{key}{value}" for key, value in changes.items()).replace(".", "_")
        run(job({key.replace("__", "."): value for key, value in changes.items()}, run_dir=place))
        return sorted(path.name for path in (place / "checkpoints").iterdir())

    assert steps_with(train__checkpoint_every=2) == ["step-4", "step-6"]
    assert steps_with(train__checkpoint_every=2, train__keep_last=3) == ["step-2", "step-4", "step-6"]
    assert steps_with(train__max_steps=4) == ["step-4"]
    # Six steps are less than an epoch; validated steps that improve are saved as best.
    assert steps_with(train__eval_every=3)[-1] == "step-6"
