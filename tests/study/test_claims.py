"""How claims are written, and how sizes shrink: what differs stays different, ratios of widths stay exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone.config.knobs import knobs_of
from torchstone.config.resolve import resolve
from torchstone.study.prove.claims import CLAIMS, FACETS, holds
from torchstone.study.prove.twin import UPDATES, scale_of, sizes_of, twin_settings
from torchstone.train.config import SECTIONS

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"


@pytest.mark.parametrize(
    ("expected", "value", "parent", "does"),
    [
        ("+0", 5, 5, True),
        ("+0", 6, 5, False),
        ("+1_000", 1005, 5, True),
        ("-3", 2, 5, True),
        ("-3", 8, 5, False),
        (">0", 6, 5, True),
        (">0", 5, 5, False),
        (">=0", 5, 5, True),
        ("<0", 4, 5, True),
        ("<=0", 6, 5, False),
        ("=7", 7, None, True),
        ("=7", 8, 5, False),
        ("x0.167", 12288, 73728, True),
        ("x0.17", 12288, 73728, True),
        ("x0.16", 12288, 73728, False),
        ("x2", 10, 5, True),
    ],
)
def test_a_change_means_what_it_says(expected: str, value: int, parent: int | None, does: bool) -> None:
    assert holds(expected, value, parent) is does


def test_every_claim_and_facet_is_in_the_page() -> None:
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    for name in (*CLAIMS.names(), *FACETS):
        assert any(f"`{name}`" in line for line in table), name


SIZES = st.fixed_dictionaries(
    {
        "model.num_layers": st.integers(1, 48),
        "model.d_ff": st.integers(1, 64).map(lambda width: width * 64),
        "model.max_seq_len": st.integers(1, 4096),
        "model.attention.window": st.integers(1, 512),
    }
)


@given(st.lists(SIZES, min_size=1, max_size=6))
def test_sizes_that_differ_stay_different_and_widths_keep_their_ratio(arms: list[dict[str, int]]) -> None:
    arms = [{**arm, "model.d_model": 768, "model.num_heads": 12} for arm in arms]
    scale = scale_of(arms, knobs_of(SECTIONS))
    assert scale.sizes is not None
    for key in arms[0]:
        values = sorted({arm[key] for arm in arms})
        small = [scale.sizes[key, value] for value in values]
        assert small == sorted(set(small)), key
        assert all(each >= 1 for each in small)
    for arm in arms:
        narrow = scale.sizes["model.d_ff", arm["model.d_ff"]]
        assert narrow * 768 == arm["model.d_ff"] * scale.sizes["model.d_model", 768]


def test_intervals_of_optimizer_pruning_and_model_fit_into_the_life_of_a_twin() -> None:
    base = resolve(SECTIONS, overrides=[("optim.name", "adamwspam")])
    long = {
        "optim.spam_interval": 1000,
        "prune.method": "magnitude",
        "prune.every": 50,
        "model.mlp.name": "r-mlp",
        "model.mlp.activation": "delayed",
        "model.mlp.activation_steps": 75,
    }
    arm = base.with_values(long, "an arm")
    sizes = sizes_of(arm, {})
    twin = twin_settings(arm, sizes, scale_of([sizes], knobs_of(SECTIONS)), 5000)
    small = {
        key: twin.plain[key] for key in ("optim.spam_interval", "prune.every", "model.mlp.activation_steps")
    }
    assert all(0 < each < UPDATES for each in small.values()), small


def test_what_is_measured_per_step_grows_as_the_steps_become_fewer() -> None:
    guided = {
        "model.mlp.name": "r-mlp",
        "model.mlp.activation": "variance-guided",
        "model.mlp.max_slope": 0.1,
    }
    arm = resolve(SECTIONS).with_values(guided, "an arm")
    twin = twin_settings(arm, sizes_of(arm, {}), scale_of([sizes_of(arm, {})], knobs_of(SECTIONS)), 5000)
    window = twin.plain["model.mlp.activation_window"]
    assert 2 * window + twin.plain["model.mlp.ramp_steps"] < UPDATES
    assert twin.plain["model.mlp.max_slope"] * UPDATES == pytest.approx(0.1 * 5000)
