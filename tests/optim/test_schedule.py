"""The learning rate is a pure function of the step: laws over every schedule, and the forms of each."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.optim.config import OptimConfig
from torchstone.optim.schedule import FALLS, SCHEDULES, learning_rate_at

PEAK = 0.3


def rates_of(total: int, past_the_end: int = 0, **changes: Any) -> list[float]:
    config = OptimConfig(**{"learning_rate": 1.0, "warmup_ratio": 0.0, **changes})
    return [learning_rate_at(step, total, config) for step in range(total + past_the_end)]


runs = given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 1),
    floor=st.floats(0, 1),
    decay=st.floats(0, 1),
    form=st.sampled_from(sorted(FALLS)),
)
every_schedule = pytest.mark.parametrize("name", SCHEDULES.names())


def config_of(name: str, warmup: float, floor: float, decay: float, form: str) -> OptimConfig:
    return OptimConfig(
        learning_rate=PEAK,
        warmup_ratio=warmup,
        final_learning_rate_ratio=floor,
        decay_ratio=decay,
        decay_form=form,
        schedule=name,
    )


@every_schedule
@settings(max_examples=40, deadline=None)
@runs
def test_rises_to_the_peak_and_falls_to_the_floor(
    name: str, total: int, warmup: float, floor: float, decay: float, form: str
) -> None:
    config = config_of(name, warmup, floor, decay, form)
    rates = [learning_rate_at(step, total, config) for step in range(total + 3)]
    warmup_steps = round(warmup * total)
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    assert rates[:warmup_steps] == sorted(rates[:warmup_steps])
    after = rates[max(warmup_steps - 1, 0) :]
    assert all(right <= left + 1e-15 for left, right in itertools.pairwise(after))
    # A single step after the warm-up can be the peak or the end, not both: then it is the peak's.
    room = total - warmup_steps > 1
    if name == "wsd":
        room = room and round(decay * total) > 0
    assert max(rates) == pytest.approx(PEAK)
    if SCHEDULES.get(name).reaches_floor and room:
        assert rates[total - 1] == pytest.approx(PEAK * floor, rel=1e-12, abs=1e-15)
        assert rates[total - 1 :] == [rates[total - 1]] * 4  # past the end it stays there


@every_schedule
def test_has_no_jumps(name: str) -> None:
    """Twice the steps halve the largest change: the shape is continuous (1-sqrt: its root goes by 0.71)."""
    for form in sorted(FALLS):
        changes = []
        for total in (2_000, 8_000):
            config = config_of(name, 0.1, 0.0, 0.4, form)
            rates = [learning_rate_at(step, total, config) for step in range(total)]
            changes.append(max(abs(left - right) for left, right in itertools.pairwise(rates)))
        assert changes[1] < 0.6 * changes[0] < 0.05 * PEAK


def test_warm_up_then_cosine_to_the_floor() -> None:
    rates = rates_of(10, warmup_ratio=0.2)
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(0.1)
    # Half way between peak and floor in the middle of the cosine.
    assert rates_of(3)[1:] == pytest.approx([0.55, 0.1])


def test_linear_is_a_line() -> None:
    assert rates_of(5, schedule="linear", final_learning_rate_ratio=0.0) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_constant_is_constant_after_the_warm_up() -> None:
    assert set(rates_of(8, 4, schedule="constant", warmup_ratio=0.5)[3:]) == {1.0}


@pytest.mark.parametrize(
    ("total", "decay", "expected"), [(10, 0.3, 3), (10, 0.1, 1), (7, 0.5, 4), (5, 0.0, 0)]
)
def test_wsd_decays_on_the_last_steps_and_no_others(total: int, decay: float, expected: int) -> None:
    rates = rates_of(total, schedule="wsd", decay_ratio=decay, final_learning_rate_ratio=0.0)
    assert [rate < 1.0 for rate in rates] == [False] * (total - expected) + [True] * expected
    if expected:
        assert rates[-1] == 0.0
        assert rates[-expected] == pytest.approx(1 - 1 / expected)  # the first step of the decay has begun it


def test_wsd_forms() -> None:
    def middle(form: str) -> float:
        changes = {
            "schedule": "wsd",
            "decay_ratio": 0.4,
            "decay_form": form,
            "final_learning_rate_ratio": 0.2,
        }
        return rates_of(10, **changes)[7]  # half way through four steps of decay

    assert middle("linear") == pytest.approx(0.6)
    assert middle("cosine") == pytest.approx(0.6)
    assert middle("1-sqrt") == pytest.approx(0.2 + 0.8 * (1 - math.sqrt(0.5)))


def test_the_warm_up_has_its_room_before_the_decay() -> None:
    rates = rates_of(10, schedule="wsd", warmup_ratio=0.6, decay_ratio=0.8, final_learning_rate_ratio=0.0)
    assert rates[5] == 1.0 and rates[6:] == pytest.approx([0.75, 0.5, 0.25, 0.0])


def test_agrees_with_transformers_where_they_mean_the_same() -> None:
    """Theirs reaches the peak on step W, ours on W-1; theirs ends a step after the last, ours on it."""
    library = pytest.importorskip("transformers", reason="the comparison needs the extra [hf]")
    total, warmup = 20, 4

    def theirs(name: str, **arguments: Any) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = getattr(library, name)(optimizer, num_warmup_steps=warmup, **arguments)
        rates = []
        for _ in range(total):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return rates

    def ours(name: str, floor: float = 0.0, **changes: Any) -> list[float]:
        return rates_of(total, schedule=name, warmup_ratio=0.2, final_learning_rate_ratio=floor, **changes)

    end = {"num_training_steps": total - 1}
    pairs = [
        (theirs("get_cosine_schedule_with_warmup", **end), ours("cosine")),
        (
            theirs("get_cosine_with_min_lr_schedule_with_warmup", min_lr_rate=0.1, **end),
            ours("cosine", 0.1),
        ),
        (theirs("get_linear_schedule_with_warmup", **end), ours("linear")),
        (theirs("get_constant_schedule_with_warmup"), ours("constant")),
        (theirs("get_inverse_sqrt_schedule"), ours("inverse-sqrt")),
        (
            theirs(
                "get_wsd_schedule",
                num_stable_steps=9,
                num_decay_steps=6,
                decay_type="linear",
                min_lr_ratio=0.1,
            ),
            ours("wsd", 0.1, decay_ratio=0.3),
        ),
        (
            theirs("get_wsd_schedule", num_stable_steps=9, num_decay_steps=6, decay_type="1-sqrt"),
            ours("wsd", decay_ratio=0.3, decay_form="1-sqrt"),
        ),
    ]
    for place, (them, us) in enumerate(pairs):
        assert us[warmup:] == pytest.approx(them[warmup:], abs=1e-12), place
        if place != 5:  # with a floor, theirs starts its warm-up from there
            assert us[: warmup - 1] == pytest.approx(them[1:warmup], abs=1e-12), place


def test_configuration_offers_what_is_registered() -> None:
    for field, names in (("schedule", SCHEDULES.names()), ("decay_form", list(FALLS))):
        extra = OptimConfig.model_fields[field].json_schema_extra
        assert isinstance(extra, dict)
        assert extra["choices"] == names
