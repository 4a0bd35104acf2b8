"""Verdicts follow the documented rules, and a comparison without an effect is seldom supported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from torchstone.study.claim.arms import Arm
from torchstone.study.claim.findings import Case, Finding
from torchstone.study.claim.recorded import RecordedRun, states
from torchstone.study.claim.repository import Repository
from torchstone.study.claim.terms import Claim, parse_effect
from torchstone.study.claim.verdict import (
    HOLDS,
    LIMITED,
    NEUTRAL,
    SUPPORTED,
    UNDECIDED,
    Judgement,
    judge,
    worst,
)


def case(*arms: Sequence[float], effect: str = "any", direction: str = "lower", shared: bool = True) -> Case:
    """The first arm is the baseline; arms share their seeds or have none in common."""
    size = parse_effect(effect)
    assert size is not None
    made = []
    for number, values in enumerate(arms):
        first = 0 if shared else 1000 * number
        runs = [
            RecordedRun(
                run_id=f"{number}-{place}",
                origin="claim",
                where="",
                statements=states({"seed": first + place, "value": float(value)}, ""),
            )
            for place, value in enumerate(values)
        ]
        made.append(Arm(name=f"arm{number}" if number else "baseline", runs=tuple(runs), where=""))
    claim = Claim(
        title="", metric="val/loss", direction=direction, size=size, arms=(), path=Path("claim.toml"), text=""
    )
    return Case(claim=claim, arms=tuple(made), repository=Repository(Path()))


def verdict(*arms: Sequence[float], limits: Sequence[Finding] = (), **keys: object) -> Judgement:
    (judged,) = judge(case(*arms, **keys), limits)  # type: ignore[arg-type]
    return judged


NOISE = np.array([-0.01, 0.0, 0.012, 0.004, -0.006])
BASE = 3.0 + np.array([0.1, -0.1, 0.05, 0.0, -0.05])


@pytest.mark.parametrize(
    ("effect", "gain", "noise", "expected", "why"),
    [
        ("any", 0.3, 1.0, SUPPORTED, "the claim holds"),
        ("absolute 0.2", 0.3, 1.0, SUPPORTED, "the claim holds"),
        ("absolute 0.3", 0.3, 1.0, LIMITED, "whether it is as large as claimed"),
        ("absolute 0.31", 0.3, 1.0, LIMITED, "whether it is as large as claimed"),
        ("absolute 0.5", 0.3, 1.0, NEUTRAL, "smaller than claimed"),
        ("absolute 0.3", 0.0, 1.0, NEUTRAL, "if there is a gain, it is smaller"),
        ("absolute 0.3", -0.3, 1.0, NEUTRAL, "the opposite is shown"),
        ("any", -0.3, 1.0, NEUTRAL, "the opposite is shown"),
        ("any", 0.0, 1.0, UNDECIDED, "cannot tell a gain from chance"),
        ("absolute 0.3", 0.1, 40.0, UNDECIDED, "cannot tell a gain from chance"),
        ("relative 5 %", 0.3, 1.0, SUPPORTED, "the claim holds"),
        ("relative 15 %", 0.3, 1.0, NEUTRAL, "smaller than claimed"),
        ("any", 0.3, 0.0, UNDECIDED, "agree to the last digit"),
    ],
)
def test_each_rule(effect: str, gain: float, noise: float, expected: str, why: str) -> None:
    judged = verdict(BASE, BASE - gain + noise * NOISE, effect=effect)
    assert judged.verdict == expected
    assert why in judged.why


def test_the_direction_turns_the_claim() -> None:
    better = BASE - 0.3 + NOISE
    assert verdict(BASE, better, direction="lower").verdict == SUPPORTED
    assert verdict(BASE, better, direction="higher").verdict == NEUTRAL
    assert verdict(better, BASE, direction="higher").verdict == SUPPORTED
    assert verdict(BASE, better).effect == pytest.approx(0.3, abs=0.01)
    assert verdict(better, BASE, direction="higher", effect="relative 5 %").effect > 0


def test_pairing_by_seed_sees_what_the_spread_of_seeds_hides() -> None:
    noisy = 3.0 + 30 * NOISE
    assert verdict(noisy, noisy - 0.05 + NOISE).verdict == SUPPORTED
    apart = verdict(noisy, noisy - 0.05 + NOISE, shared=False)
    assert apart.verdict == UNDECIDED
    assert apart.needed_seeds is not None
    assert apart.needed_seeds > 50


def test_a_limit_of_one_of_the_two_arms_limits() -> None:
    limit = Finding("data", "unrecorded", ("baseline",), "the data is known by its size", refuses=False)
    elsewhere = Finding("data", "unrecorded", ("arm7",), "not this one", refuses=False)
    better = BASE - 0.3 + NOISE
    assert verdict(BASE, better, limits=[limit]).verdict == LIMITED
    assert "known by its size" in verdict(BASE, better, limits=[limit]).why
    assert verdict(BASE, better, limits=[elsewhere]).verdict == SUPPORTED


def test_several_candidates_need_stronger_evidence_and_the_weakest_decides() -> None:
    base, near = np.array([3.0, 3.1, 2.9, 3.0]), np.array([0.1, 0.16, 0.05, 0.13])
    alone = verdict(base, base - near)
    assert alone.verdict == SUPPORTED
    many = judge(case(base, base - near, *[base - near[::-1] for _ in range(7)]), ())
    assert many[0].p_direction > alone.p_direction
    assert many[0].interval[0] < alone.interval[0]
    assert worst(many).verdict != SUPPORTED
    mixed = judge(case(base, base - 1 + 0.01 * near, base + 1 + 0.01 * near), ())
    assert [each.verdict for each in mixed] == [SUPPORTED, NEUTRAL]
    assert worst(mixed).candidate == "arm2"


def test_with_many_seeds_resampling_must_confirm() -> None:
    draw = np.random.default_rng(3)
    base = 3 + draw.normal(size=30)
    judged = verdict(base, base - 0.5 + 0.3 * draw.normal(size=30))
    assert judged.verdict == SUPPORTED
    assert judged.bootstrap is not None
    assert judged.bootstrap == pytest.approx(judged.interval, abs=0.03)


def nulls(count: int, **fixed: object) -> list[Judgement]:
    """Comparisons of arms that are the same, in all the ways in which arms can be compared."""
    draw = np.random.default_rng(20)
    judged = []
    for number in range(count):
        seeds, shared = int(draw.integers(2, 11)), bool(number % 2)
        common = draw.normal(0, 0.05, size=seeds) if shared else 0.0
        arms = [
            3 + common + draw.normal(0, 0.02, size=seeds) for _ in range(1 + int(fixed.get("candidates", 1)))
        ]  # type: ignore[call-overload]
        effect = str(fixed.get("effect", "any"))
        judged.append(
            judge(
                case(*arms, effect=effect, shared=shared, direction=["lower", "higher"][number % 3 == 0]), ()
            )
        )
    return [min(each, key=lambda one: (one.verdict not in HOLDS, one.p_direction)) for each in judged]


def test_of_two_thousand_comparisons_without_effect_few_are_supported() -> None:
    judged = nulls(2000)
    supported = sum(each.verdict in HOLDS for each in judged)
    assert supported <= 0.065 * 2000
    assert (
        supported >= 0.01 * 2000
    )  # 2.5 % are expected; a gate that supports nothing would pass the line above


@pytest.mark.parametrize(("effect", "candidates"), [("any", 4), ("relative 0.5 %", 1), ("relative 0.5 %", 3)])
def test_nor_by_claiming_a_size_or_trying_several_candidates(effect: str, candidates: int) -> None:
    judged = nulls(500, effect=effect, candidates=candidates)
    assert sum(each.verdict in HOLDS for each in judged) <= 0.05 * 500


def test_claims_of_a_true_effect_are_supported_with_the_seeds_that_were_said_to_be_needed() -> None:
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        base = 3 + draw.normal(0, 0.02, size=8)
        held += verdict(base, base - 0.03 + draw.normal(0, 0.02, size=8)).verdict in HOLDS
    # 8 pairs with an effect of 1.5 spreads: power 0.96
    assert held > 0.9 * 400
