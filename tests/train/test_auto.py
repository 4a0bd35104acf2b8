"""What is left open is chosen for the model and the memory; what an update is made of never changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torchstone as ts
from torchstone._errors import ConfigError, OutOfMemory
from torchstone.config.resolve import Resolved, resolve
from torchstone.train import auto
from torchstone.train.config import SECTIONS
from torchstone.train.footprint import Footprint, Memory, footprint_of
from torchstone.train.meter import LiveTensors
from torchstone.train.run import TrainJob, prepare, run

CPU = torch.device("cpu")
OPEN: dict[str, Any] = {"train.batch_size": 0, "train.gradient_accumulation_steps": 0}
LENGTH = 16


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auto") / "text.txt"
    path.write_text("\n".join(f"line {number} says {number * number}" for number in range(300)))
    return path


@pytest.fixture
def settings(text: Path) -> Callable[..., Resolved]:
    def make(changes: dict[str, Any] | None = None) -> Resolved:
        values = {
            "data.source": str(text), "data.tokenizer": "bytes", "data.sequence_length": LENGTH,
            "model.vocab_size": 300, "model.max_seq_len": 64, "model.d_model": 16, "model.num_layers": 2,
            "model.num_heads": 2, "train.max_steps": 3, "tracking.dashboard": False, **(changes or {}),
        }  # fmt: skip
        return resolve(SECTIONS).with_values(values)

    return make


def subject_of(folder: Path) -> Callable[[Resolved], Any]:
    return lambda config: prepare(TrainJob(config, device="cpu", cache_dir=folder / "cache"))


def settled(config: Resolved, folder: Path, free: int = 10**9, world: int = 1) -> Resolved:
    (made,) = auto.settle(
        [config], subject_of(folder), device=CPU, world=world, memory=Memory(free=free, name="pretended")
    )
    return made


# --- the choice, as a function of numbers -------------------------------------------------------


@given(
    fixed=st.integers(0, 10**12), per_example=st.integers(1, 10**10), free=st.integers(1, 10**13),
    examples=st.integers(1, 512), world=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_the_update_is_exact_fits_and_could_not_be_larger(
    fixed: int, per_example: int, free: int, examples: int, world: int
) -> None:
    footprint, memory = Footprint(fixed=fixed, per_example=per_example), Memory(free=free, name="pretended")
    base = resolve(SECTIONS).with_values(OPEN)
    fits = lambda size: footprint.needed(-(-size // world)) <= auto.USED * free  # noqa: E731
    try:
        choice = auto.by_memory(base, [footprint], memory, examples=examples, world=world)
    except OutOfMemory:
        assert not fits(1) or (examples % world == 0 and not fits(world))
        return
    batch, steps = choice.values[auto.BATCH], choice.values[auto.ACCUMULATION]
    assert batch * steps == examples and fits(batch)
    larger = [size for size in range(batch + 1, examples + 1) if examples % size == 0]
    assert not any(fits(size) for size in larger if size % world == 0)


def test_arms_get_what_fits_the_largest_of_them() -> None:
    small, large = Footprint(fixed=0, per_example=10), Footprint(fixed=0, per_example=100)
    memory = Memory(free=1000, name="pretended")
    base = resolve(SECTIONS).with_values(OPEN)
    alone = auto.by_memory(base, [small], memory, examples=64)
    together = auto.by_memory(base, [small, large], memory, examples=64)
    assert (alone.values[auto.BATCH], together.values[auto.BATCH]) == (64, 8)


@pytest.mark.parametrize(
    ("batch", "steps", "chosen"), [(8, 0, {auto.ACCUMULATION: 8}), (0, 4, {auto.BATCH: 16}), (16, 4, {})]
)
def test_what_is_said_is_kept(batch: int, steps: int, chosen: dict[str, int]) -> None:
    base = resolve(SECTIONS).with_values({auto.BATCH: batch, auto.ACCUMULATION: steps})
    assert auto.by_memory(base, [], Memory(free=0, name=""), examples=64).values == chosen


@pytest.mark.parametrize(("batch", "steps"), [(5, 0), (0, 7), (16, 2)])
def test_what_cannot_be_exact_is_refused(batch: int, steps: int) -> None:
    base = resolve(SECTIONS).with_values({auto.BATCH: batch, auto.ACCUMULATION: steps})
    with pytest.raises(ConfigError, match="do not come to what an update is made of"):
        auto.by_memory(base, [], Memory(free=0, name=""), examples=64)


def test_a_cpu_gets_the_exact_format_and_no_compiler() -> None:
    base = resolve(SECTIONS).with_values({"train.precision": "auto", "train.compile": "auto"})
    assert auto.by_device(base, CPU).values == {"train.precision": "fp32", "train.compile": "none"}
    assert auto.by_device(resolve(SECTIONS), CPU).values == {}


# --- the footprint of a model -------------------------------------------------------------------


def test_a_forecast_is_what_a_larger_batch_takes(settings: Callable[..., Resolved], tmp_path: Path) -> None:
    """Measured with one and two examples; held against a real pass of twelve."""
    config = settings({"train.batch_size": 12})
    subject = subject_of(tmp_path)(config)
    before = {name: each.clone() for name, each in subject.module.state_dict().items()}
    footprint = footprint_of(subject, config)
    assert all(torch.equal(each, before[name]) for name, each in subject.module.state_dict().items())
    assert all(each.grad is None for each in subject.module.parameters())
    parameters = sum(each.numel() for each in subject.module.parameters())
    assert footprint.fixed >= 4 * 4 * parameters  # weights, gradients, two moments
    ids = subject.batches.first()["input_ids"]
    with LiveTensors([*subject.module.parameters(), ids]) as live:
        logits = subject.module(ids)
        logits = getattr(logits, "logits", logits)
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()).backward()
    expected = footprint.passing + 12 * footprint.per_example + 4 * parameters  # the gradients are new here
    assert expected == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(
    "changes",
    [{"data.sequence_length": 32}, {"model.num_layers": 4}, {"model.vocab_size": 3000}],
    ids=lambda each: next(iter(each)),
)
def test_length_depth_and_vocabulary_make_it_larger(
    settings: Callable[..., Resolved], tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain, changed = settings(), settings(changes)
    one, two = (footprint_of(subject_of(tmp_path)(each), each) for each in (plain, changed))
    assert two.per_example > 1.3 * one.per_example


def test_recomputed_blocks_take_less(settings: Callable[..., Resolved], tmp_path: Path) -> None:
    deep = {"model.num_layers": 6, "data.sequence_length": 64}
    plain, recomputed = settings(deep), settings({**deep, "train.gradient_checkpointing": True})
    one, two = (footprint_of(subject_of(tmp_path)(each), each) for each in (plain, recomputed))
    assert two.per_example < 0.6 * one.per_example


# --- settling a configuration -------------------------------------------------------------------


def test_less_memory_means_more_micro_steps_and_the_same_update(
    settings: Callable[..., Resolved], tmp_path: Path
) -> None:
    config = settings({**OPEN, "train.tokens_per_update": 24 * LENGTH})
    roomy = settled(config, tmp_path)
    assert (roomy.train.batch_size, roomy.train.gradient_accumulation_steps) == (24, 1)
    subject = subject_of(tmp_path)(roomy)
    tight = footprint_of(subject, roomy).needed(6) / auto.USED + 1
    made = settled(config, tmp_path, free=int(tight))
    assert (made.train.batch_size, made.train.gradient_accumulation_steps) == (6, 4)
    assert made.sources["train.batch_size"].startswith("auto: the largest part of 24 examples per update")
    assert "pretended" in auto.explained(made)
    with pytest.raises(OutOfMemory, match="not even one example") as caught:
        settled(config, tmp_path, free=1000)
    assert "gradient_checkpointing" in caught.value.next
    shared = settled(config, tmp_path, free=int(tight), world=2)
    assert shared.train.batch_size == 12  # six examples on each of two devices


def test_any_cut_of_the_update_trains_the_same(settings: Callable[..., Resolved], tmp_path: Path) -> None:
    losses, wish = [], settings({**OPEN, "train.examples_per_update": 12})
    tight = footprint_of(subject_of(tmp_path)(settings()), settings()).needed(3) / auto.USED + 1
    for free in (10**9, int(tight)):
        made = settled(wish, tmp_path, free=free)
        result = run(TrainJob(made, run_dir=tmp_path / str(free), device="cpu", cache_dir=tmp_path / "cache"))
        losses.append((made.train.batch_size, result.tokens, result.final["val/loss"]))
    (first, tokens, loss), (second, other_tokens, other_loss) = losses
    assert first > second and tokens == other_tokens
    assert loss == pytest.approx(other_loss, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.batch_size": 0}, "leaves open what an update is made of"),
        ({"train.gradient_accumulation_steps": 0}, "leaves open what an update is made of"),
        ({**OPEN, "train.tokens_per_update": 100}, "no whole number of examples"),
        ({**OPEN, "train.tokens_per_update": 7}, "no whole number of examples"),
        ({**OPEN, "train.tokens_per_update": 160, "train.examples_per_update": 9}, "contradict each other"),
        ({"train.batch_size": 4, "train.examples_per_update": 6}, "do not come to"),
    ],
)
def test_what_would_change_the_update_is_refused(
    settings: Callable[..., Resolved], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(TrainJob(settings(changes), run_dir=tmp_path / "run", device="cpu", cache_dir=tmp_path / "cache"))
    assert not (tmp_path / "run").exists()


def test_arms_of_a_study_never_differ(settings: Callable[..., Resolved], tmp_path: Path) -> None:
    wish = {**OPEN, "train.tokens_per_update": 24 * LENGTH, "train.precision": "auto"}
    arms = [settings(wish), settings({**wish, "model.num_layers": 6}), settings({**wish, "model.d_ff": 256})]
    sizes = [footprint_of(subject_of(tmp_path)(each), each) for each in map(_plain, arms)]
    memory = Memory(free=int(max(each.needed(8) for each in sizes) / auto.USED) + 1, name="pretended")
    made = auto.settle(arms, subject_of(tmp_path), device=CPU, memory=memory)
    chosen = {tuple((each.plain[key], each.sources[key]) for key in auto.OPEN) for each in made}
    assert len(chosen) == 1
    assert [each.model.num_layers for each in made] == [2, 6, 2]
    alone = auto.settle(arms[:1], subject_of(tmp_path), device=CPU, memory=memory)
    assert made[0].train.batch_size == 8 < alone[0].train.batch_size
    with pytest.raises(ConfigError, match="would not have the same batch"):
        auto.settle(
            [arms[0], settings({**wish, "data.sequence_length": 32})], subject_of(tmp_path), device=CPU
        )
    with pytest.raises(ConfigError, match=r"train\.batch_size is chosen for all arms"):
        auto.settle([arms[0], settings({**wish, "train.batch_size": 8})], subject_of(tmp_path), device=CPU)


def _plain(config: Resolved) -> Resolved:
    values = {"train.batch_size": 1, "train.gradient_accumulation_steps": 1, "train.precision": "fp32"}
    return config.with_values(values | {"train.tokens_per_update": None})


def test_a_run_says_what_was_chosen_and_keeps_it(settings: Callable[..., Resolved], tmp_path: Path) -> None:
    wish = settings({**OPEN, "train.tokens_per_update": 8 * LENGTH, "train.compile": "auto"})
    heard: list[dict[str, str]] = []
    watch = type("Watch", (), {"on_start": lambda _, info: heard.append(info.settings)})()
    job = {"run_dir": tmp_path / "run", "device": "cpu", "cache_dir": tmp_path / "cache", "hooks": (watch,)}
    stopped = run(TrainJob(wish.with_values({"train.max_time_s": 1e-6}), **job))
    assert stopped.status == "interrupted"
    assert "train.batch_size = 8" in heard[0]["auto"] and "train.compile = none" in heard[0]["auto"]
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["values"]
    assert kept["train.batch_size"]["value"] == 8
    assert kept["train.batch_size"]["source"].startswith("auto: ")
    kept["train.batch_size"]["value"], kept["train.gradient_accumulation_steps"]["value"] = 2, 4
    rewritten = json.loads((tmp_path / "run" / "config.json").read_text()) | {"values": kept}
    (tmp_path / "run" / "config.json").write_text(json.dumps(rewritten))
    resumed = run(TrainJob(wish, resume="auto", **job))  # as on a machine with more memory
    assert (resumed.status, resumed.steps) == ("completed", 3)
    assert heard[1]["batch"].startswith("2 examples x 4 micro-steps")


def test_python_users_leave_it_open_too(tmp_path: Path) -> None:
    config = ts.TrainingConfig(
        batch_size=0, gradient_accumulation_steps=0, examples_per_update=6, precision="auto", epochs=1,
        max_steps=2, checkpoint_dir=str(tmp_path / "run"), dashboard=False,
    )  # fmt: skip
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    rows = [torch.arange(5) + number for number in range(6)]
    trainer = ts.Trainer(model, config, task=ts.TaskSpec.language_modeling(11), device="cpu")
    assert trainer.train(rows).status == "completed"
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["values"]
    assert (kept["train.batch_size"]["value"], kept["train.precision"]["value"]) == (6, "fp32")
    loader = torch.utils.data.DataLoader(torch.stack(rows), batch_size=2)
    again = ts.Trainer(model, config.replace(checkpoint_dir=None), task=ts.TaskSpec.language_modeling(11))
    with pytest.raises(ConfigError, match="no effect on this data"):
        again.train(loader)
