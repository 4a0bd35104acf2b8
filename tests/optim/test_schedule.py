"""The learning rate is a pure function of the step: warm-up, peak, floor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone.optim.config import OptimConfig
from torchstone.optim.schedule import SCHEDULES, learning_rate_at


def test_warm_up_then_cosine_to_the_floor() -> None:
    config = OptimConfig(learning_rate=1.0, warmup_ratio=0.2, final_learning_rate_ratio=0.1)
    rates = [learning_rate_at(step, 10, config) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    # Half way between peak and floor in the middle of the cosine (7 intervals from step 2 to step 9).
    assert learning_rate_at(2, 3, OptimConfig(learning_rate=1.0, warmup_ratio=0.0)) == pytest.approx(0.1)
    assert learning_rate_at(1, 3, OptimConfig(learning_rate=1.0, warmup_ratio=0.0)) == pytest.approx(0.55)


@given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 1),
    floor=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES.names()),
)
def test_stays_between_zero_and_peak_and_reaches_the_peak(
    total: int, warmup: float, floor: float, schedule: str
) -> None:
    config = OptimConfig(
        learning_rate=0.3, warmup_ratio=warmup, final_learning_rate_ratio=floor, schedule=schedule
    )
    rates = [learning_rate_at(step, total, config) for step in range(total + 3)]
    assert all(0 <= rate <= 0.3 * (1 + 1e-12) for rate in rates)
    assert max(rates) == pytest.approx(0.3)
    warmup_steps = round(warmup * total)
    assert rates[:warmup_steps] == sorted(rates[:warmup_steps])


def test_constant_is_constant_after_the_warm_up() -> None:
    config = OptimConfig(learning_rate=0.5, warmup_ratio=0.5, schedule="constant")
    assert {learning_rate_at(step, 8, config) for step in range(3, 12)} == {0.5}


def test_configuration_offers_what_is_registered() -> None:
    extra = OptimConfig.model_fields["schedule"].json_schema_extra
    assert isinstance(extra, dict)
    assert extra["choices"] == SCHEDULES.names()
