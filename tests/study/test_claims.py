"""How claims are written, and how sizes shrink: what differs stays different, ratios of widths stay exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone.config.knobs import knobs_of
from torchstone.study.prove.claims import CLAIMS, FACETS, holds
from torchstone.study.prove.twin import scale_of
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
