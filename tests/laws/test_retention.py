"""Retention keeps the newest and the best, and never takes away the only good one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.small_run import small_engine

from torchstone._errors import ConfigError
from torchstone.tracking.checkpoint import newest_good, open_checkpoint, steps_of, write_checkpoint
from torchstone.train.retention import best_of, pointed, prune, validation_losses
from torchstone.train.training_config import TrainingConfig

LOSSES = st.one_of(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 4).map(float))


def save(checkpoints: Path, step: int, loss: float | None) -> None:
    metrics = {} if loss is None else {"val/loss": loss}
    write_checkpoint(checkpoints, step, {"w": torch.ones(2)}, {}, config_hash="c", metrics=metrics)


def spoil(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


@given(losses=st.dictionaries(st.integers(1, 9), LOSSES), number=st.integers(1, 4))
def test_nan_is_never_best_and_the_order_is_total(losses: dict[int, float], number: int) -> None:
    best = best_of(losses, number)
    assert not any(math.isnan(losses[step]) for step in best)
    assert len(best) == min(number, sum(not math.isnan(loss) for loss in losses.values()))
    others = [step for step in losses if step not in best and not math.isnan(losses[step])]
    assert all((losses[a], a) < (losses[b], b) for a in best for b in others)


@settings(max_examples=40, deadline=None)
@given(
    history=st.lists(st.tuples(st.none() | LOSSES, st.booleans()), min_size=1, max_size=7),
    keep_last=st.integers(1, 3),
    keep_best=st.integers(1, 3),
)
def test_a_good_checkpoint_remains_whatever_goes_bad(
    history: list[tuple[float | None, bool]],
    keep_last: int,
    keep_best: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """After each save some older checkpoint, or the new one once it is written, may rot on the disk."""
    checkpoints = tmp_path_factory.mktemp("run") / "checkpoints"
    finite: dict[int, float] = {}
    rotten: set[int] = set()
    for number, (loss, rots) in enumerate(history):
        step = 10 * number + 10
        save(checkpoints, step, loss)
        if loss is not None and math.isfinite(loss):
            finite[step] = loss
        best = best_of(finite, 1)
        before = set(steps_of(checkpoints))
        if rots and len(before - rotten) > 1:
            spoil(checkpoints / f"step-{step}")
            rotten.add(step)
        prune(
            checkpoints,
            keep_last=keep_last,
            keep_best=keep_best,
            best=best[0] if best else None,
            just_written=step,
        )
        left = set(steps_of(checkpoints))
        assert step in left
        assert set(best) <= left
        assert left >= set(sorted(before)[-keep_last:])
        if keep_last == keep_best == 1 and not rotten:
            assert len(left) <= 2
        if len(left) == 1:
            assert newest_good(checkpoints, move_bad=False) is not None, "the only good one was deleted"


def test_the_last_one_left_is_read_back_first(tmp_path: Path) -> None:
    save(tmp_path, 1, 3.0)
    save(tmp_path, 2, 2.0)
    spoil(tmp_path / "step-2")
    assert prune(tmp_path, keep_last=1, best=2, just_written=2) == []
    found = newest_good(tmp_path)
    assert found is not None and found.step == 1


def test_the_best_few_of_a_run_stay(tmp_path: Path) -> None:
    loop = {"checkpoint_every": 1, "eval_every": 1, "keep_last": 1, "keep_best": 3, "max_steps": 12}
    engine = small_engine(tmp_path, loop=loop)
    losses: dict[int, float] = {}

    class Listen:
        def on_eval(self, info: object) -> None:
            losses[info.step] = info.metrics["val/loss"]  # type: ignore[attr-defined]

    engine.hooks.on_eval = (Listen().on_eval,)
    engine.run()
    checkpoints = tmp_path / "checkpoints"
    assert set(steps_of(checkpoints)) == set(best_of(losses, 3)) | {12}
    assert pointed(tmp_path, "best") == f"step-{best_of(losses, 1)[0]}"
    kept = validation_losses(checkpoints)
    assert kept == {step: losses[step] for step in kept}
    assert open_checkpoint(checkpoints / "step-12").metrics["val/loss"] == losses[12]


def test_the_best_pointer_moves_when_the_best_is_lost(tmp_path: Path) -> None:
    loop = {"checkpoint_every": 1, "eval_every": 1, "keep_last": 9, "max_steps": 6}
    small_engine(tmp_path, loop=loop).run()
    best = pointed(tmp_path, "best")
    assert best is not None
    spoil(tmp_path / "checkpoints" / best)
    newest_good(tmp_path / "checkpoints")
    spoiled = small_engine(tmp_path, loop=loop, resume=True)
    assert spoiled.saver is not None
    spoiled.saver.begin(spoiled.module, spoiled.optimizer, spoiled.pace, spoiled.progress)
    named = pointed(tmp_path, "best")
    assert named is None or (tmp_path / "checkpoints" / named).is_dir()


def test_keep_best_only_keeps_the_newest_for_a_resume() -> None:
    assert TrainingConfig(keep_best_only=True).resolved().train.keep_last == 1
    assert TrainingConfig().resolved().train.keep_last == 2
    with pytest.raises(ConfigError, match="contradict"):
        TrainingConfig(keep_best_only=True, keep_last=5).validate()
