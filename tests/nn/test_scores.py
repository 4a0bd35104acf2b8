"""Scores with extra channels in a band: the pieces that the fused kernel sees make what one square would."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.nn.attention import fused
from torchstone.nn.attention.context import AttentionContext, causal_mask
from torchstone.nn.attention.scores import Scores, pieces
from torchstone.nn.attention.statistics import STATISTICS, entropy, row_statistic


def scores(T: int, S: int, window: int | None, seed: int = 0) -> tuple[Scores, Tensor]:
    torch.manual_seed(seed)
    q, k = torch.randn(2, 3, T, 4), torch.randn(2, 3, S, 4)
    kept = S if window is None else min(S, window + T)
    made = Scores(q, k, 0.7, torch.randn(2, 3, T, 5), torch.randn(2, 3, kept, 5), window)
    return made, torch.randn(2, 3, S, 6)


def dense(made: Scores, mask: Tensor) -> Tensor:
    """The square of scores, from the definition."""
    T, S = made.q.shape[2], made.k.shape[2]
    found = made.q @ made.k.transpose(-1, -2)
    assert made.q_extra is not None and made.k_extra is not None
    first = S - made.k_extra.shape[2]
    for i in range(T):
        for j in range(S):
            if made.window is None or S - T + i - j <= made.window:
                near = j >= first
                assert near or j > S - T + i
                if near:
                    extra = (made.q_extra[:, :, i] * made.k_extra[:, :, j - first]).sum(-1)
                    found[:, :, i, j] = found[:, :, i, j] + extra
    return (made.scale * found).masked_fill(~mask, float("-inf"))


@settings(max_examples=60, deadline=None)
@given(
    num_queries=st.integers(1, 19),
    past=st.integers(0, 9),
    window=st.none() | st.integers(0, 12),
    padded=st.booleans(),
)
def test_pieces_equal_the_square(num_queries: int, past: int, window: int | None, padded: bool) -> None:
    S = num_queries + past
    made, v = scores(num_queries, S, window)
    padding = None
    if padded:
        padding = torch.rand(2, S, generator=torch.Generator().manual_seed(1)) > 0.3
    mask = causal_mask(num_queries, S, padding, torch.device("cpu"))
    given_mask = mask if padded or past else None
    context = AttentionContext(mask=given_mask, is_causal=past == 0)
    square = dense(made, mask)
    torch.testing.assert_close(made.attend(v, context), square.softmax(-1) @ v, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.rows(context, 0, num_queries), square)
    p = square.softmax(-1)
    torch.testing.assert_close(entropy(made, context), torch.special.entr(p).sum(-1), atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(num_queries=st.integers(1, 19), window=st.integers(0, 12), padded=st.booleans())
def test_near_attention_equals_the_masked_square(num_queries: int, window: int, padded: bool) -> None:
    made, v = scores(num_queries, num_queries, None)
    plain = Scores(made.q, made.k, made.scale)
    padding = torch.rand(2, num_queries) > 0.3 if padded else None
    mask = causal_mask(num_queries, num_queries, padding, torch.device("cpu"))
    places = torch.arange(num_queries)
    near = mask & (places[:, None] - places <= window)
    square = (plain.scale * plain.q @ plain.k.transpose(-1, -2)).masked_fill(~near, float("-inf"))
    found = plain.attend_near(v, AttentionContext(mask=mask if padded else None), window)
    torch.testing.assert_close(found, square.softmax(-1) @ v, atol=1e-5, rtol=1e-5)


@given(num_queries=st.integers(1, 300), past=st.integers(0, 50), window=st.none() | st.integers(0, 80))
def test_pieces_cover_each_query_and_each_key_once(num_queries: int, past: int, window: int | None) -> None:
    found = pieces(num_queries, num_queries + past, window)
    assert [each.start for each in found] == [0, *(each.stop for each in found[:-1])]
    assert found[-1].stop == num_queries
    for each in found:
        first, last = past + each.start, past + each.stop - 1
        assert each.end >= last + 1
        if window is not None and len(found) > 1:
            assert each.near <= max(0, first - window) and each.far >= max(0, last - window)


def test_long_sequences_are_cut_into_few_pieces() -> None:
    assert len(pieces(8192, 8192, 64)) == 8
    # A square would have each key twice, once with its extra channels.
    assert sum(each.num_keys * (each.stop - each.start) for each in pieces(8192, 8192, 64)) < 0.7 * 8192**2


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_by_rows_do_not_depend_on_how_many_rows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = scores(11, 11, 3)
    whole = row_statistic(made, AttentionContext(), name, topk=3, head_average=True)
    monkeypatch.setattr(fused, "ROWS", 4)
    torch.testing.assert_close(
        row_statistic(made, AttentionContext(), name, topk=3, head_average=True), whole
    )


def test_the_log_sum_is_the_same_without_the_kernel_of_the_cpu() -> None:
    made, _ = scores(9, 9, None)
    for context in (
        AttentionContext(),
        AttentionContext(mask=causal_mask(9, 9, torch.rand(2, 9) > 0.5, torch.device("cpu"))),
    ):
        _, found = fused.attend_with_log_sum(made.q, made.k, made.k, context, scale=0.7)
        torch.testing.assert_close(fused.log_sums(made.q, made.k, context, 0.7), found)


def test_lengths_and_widths_must_fit() -> None:
    made, v = scores(5, 5, None)
    with pytest.raises(AssertionError):
        made.attend(v[:, :, 1:], AttentionContext())
    with pytest.raises(AssertionError):
        fused.attend(made.q, made.k, v[:, :, 1:], AttentionContext())
    with pytest.raises(AssertionError):
        fused.attend(made.q[..., 1:], made.k, v, AttentionContext())
    with pytest.raises(AssertionError):
        Scores(made.q, made.k, 1.0, made.q_extra, made.k_extra[:, :, 4:], 2).attend(v, AttentionContext())
