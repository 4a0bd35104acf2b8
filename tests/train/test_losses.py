"""Losses: summed and counted so that L9 holds, shifted once, blind to what does not count."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchstone._errors import DataError, ModelError
from torchstone.train.losses import LOSSES, Batch, SpecialIds, loss_sum, num_correct
from torchstone.train.objective import ModelObjective
from torchstone.train.step import Recipe, train_step
from torchstone.train.update import Gradients, HostUpdate

CAUSAL = LOSSES.get("causal-lm")


class Double(nn.Module):
    """A small model in float64, so that a wrong weight cannot hide in rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 6, dtype=torch.float64)
        self.head = nn.Linear(6, 11, dtype=torch.float64)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embed(input_ids).cumsum(1))


def gradients(batches: Sequence[Batch], max_grad_norm: float | None = None) -> tuple[float, list[Tensor]]:
    """Loss and gradients of one step over these micro-batches (read off a step of plain SGD)."""
    module = Double()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    objective = ModelObjective(module, CAUSAL)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    update = HostUpdate(Gradients(list(module.parameters()), max_grad_norm))
    recipe = Recipe(update, contextlib.nullcontext)
    outcome = train_step([objective.prepare(batch) for batch in batches], objective, optimizer, 1.0, recipe)
    assert outcome.update.made
    return outcome.total("loss") / outcome.targets, [
        old - new.detach() for old, new in zip(before, module.parameters(), strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=9),
    cuts=st.sets(st.integers(1, 8), max_size=4),
    seed=st.integers(0, 99),
    clip=st.sampled_from([None, 0.1]),
)
def test_any_split_of_the_same_tokens_gives_the_same_gradient(
    lengths: list[int], cuts: set[int], seed: int, clip: float | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(11, (len(lengths), longest), generator=generator)
    labels = ids.clone()
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    whole = [{"input_ids": ids, "labels": labels}]
    edges = [0, *sorted(cut for cut in cuts if cut < len(lengths)), len(lengths)]
    parts = [{"input_ids": ids[a:b], "labels": labels[a:b]} for a, b in itertools.pairwise(edges)]
    loss, expected = gradients(whole, clip)
    split_loss, found = gradients(parts, clip)
    assert loss == pytest.approx(split_loss, rel=1e-12)
    for mine, theirs in zip(expected, found, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-15)


def test_a_ragged_last_window_is_divided_by_its_own_targets() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    both, _ = gradients([{"input_ids": ids, "labels": ids}])
    alone, _ = gradients([{"input_ids": ids[:1], "labels": ids[:1]}])
    other, _ = gradients([{"input_ids": ids[1:], "labels": ids[1:]}])
    assert both == pytest.approx((alone + other) / 2, rel=1e-12)


def test_causal_is_shifted_exactly_once() -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    perfect = F.one_hot(torch.cat([ids[:, 1:], ids[:, :1]], dim=1), 7).float() * 50
    copying = F.one_hot(ids, 7).float() * 50
    batch = {"labels": ids}
    assert float(loss_sum(CAUSAL, perfect, batch)) == pytest.approx(0, abs=1e-6)
    assert float(loss_sum(CAUSAL, copying, batch)) > 100
    assert (int(num_correct(CAUSAL, perfect, batch)), int(num_correct(CAUSAL, copying, batch))) == (4, 0)
    assert CAUSAL.count(batch) == 4


def test_equals_the_textbook_form() -> None:
    logits, ids = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, 7), ids[:, 1:].reshape(-1), reduction="sum")
    assert torch.allclose(loss_sum(CAUSAL, logits, {"labels": ids}), expected)


def test_16_bit_logits_are_scored_in_float32() -> None:
    logits, ids = torch.randn(2, 4, 300), torch.randint(300, (2, 4))
    low = logits.bfloat16()
    assert loss_sum(CAUSAL, low, {"labels": ids}).dtype == torch.float32
    assert torch.equal(loss_sum(CAUSAL, low, {"labels": ids}), loss_sum(CAUSAL, low.float(), {"labels": ids}))


def test_class_zero_counts_and_ignored_ones_do_not() -> None:
    rule = LOSSES.get("classification")
    batch = {"labels": torch.tensor([0, 0, -100])}
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    assert (rule.count(batch), int(num_correct(rule, logits, batch))) == (2, 1)
    assert float(loss_sum(rule, logits, batch)) == pytest.approx(9.0, abs=1e-3)


def test_sequence_classification_reads_the_last_real_token_on_either_side() -> None:
    rule = LOSSES.get("classification")
    logits = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    batch = {"labels": torch.tensor([2, 1]), "attention_mask": mask}
    aligned, _ = rule.align(logits, batch)
    assert torch.equal(aligned, torch.stack([logits[0, 1], logits[1, 3]]))


def test_multi_label_and_token_classification() -> None:
    rule = LOSSES.get("classification")
    several = {"labels": torch.tensor([[1.0, 0.0, 1.0]])}
    assert rule.count(several) == 3
    expected = F.binary_cross_entropy_with_logits(torch.zeros(1, 3), several["labels"], reduction="sum")
    assert torch.allclose(loss_sum(rule, torch.zeros(1, 3), several), expected)
    tokens = {"labels": torch.tensor([[1, -100, 0]])}
    assert rule.count(tokens) == 2
    assert float(loss_sum(rule, torch.zeros(1, 3, 2), tokens)) == pytest.approx(2 * 0.6931, abs=1e-3)


def test_segmentation() -> None:
    rule, labels = LOSSES.get("vision"), torch.randint(3, (2, 4, 5))
    logits = torch.randn(2, 3, 4, 5)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    assert torch.allclose(loss_sum(rule, logits, {"labels": labels}), expected)


def test_masked_tokens_are_15_percent_and_80_10_10() -> None:
    rule = LOSSES.get("masked-lm")
    ids = torch.randint(5, 50, (200, 100), generator=torch.Generator().manual_seed(0))
    assert rule.prepare is not None
    special = SpecialIds(vocab_size=50, mask=4)
    made = rule.prepare({"input_ids": ids, "labels": ids.clone()}, special, torch.Generator().manual_seed(1))
    chosen = made["labels"] != -100
    assert torch.equal(made["labels"][chosen], ids[chosen])
    assert torch.equal(made["input_ids"][~chosen], ids[~chosen])
    assert float(chosen.float().mean()) == pytest.approx(0.15, abs=0.01)
    hidden = made["input_ids"][chosen] == 4
    kept = made["input_ids"][chosen] == ids[chosen]
    assert float(hidden.float().mean()) == pytest.approx(0.8, abs=0.03)
    # A random token equals the true one now and then.
    assert float(kept.float().mean()) == pytest.approx(0.1 + 0.1 / 50, abs=0.03)
    again = rule.prepare(made, special, None)
    assert again is made, "labels that a collator made must stay"
    with pytest.raises(DataError, match="mask token"):
        rule.prepare({"input_ids": ids, "labels": ids.clone()}, SpecialIds(), None)


def test_decoder_inputs_are_shifted_labels() -> None:
    rule = LOSSES.get("seq2seq")
    assert rule.prepare is not None
    batch = {"input_ids": torch.tensor([[1]]), "labels": torch.tensor([[7, 8, -100]])}
    made = rule.prepare(batch, SpecialIds(decoder_start=2, pad=0), None)
    assert made["decoder_input_ids"].tolist() == [[2, 7, 8]]
    batch["labels"] = torch.tensor([[7, -100, -100]])
    assert rule.prepare(batch, SpecialIds(pad=0), None)["decoder_input_ids"].tolist() == [[0, 7, 0]]
    with pytest.raises(DataError, match="first token"):
        rule.prepare(batch, SpecialIds(), None)


@pytest.mark.parametrize("kind", LOSSES.names())
def test_shapes_that_do_not_fit_are_told(kind: str) -> None:
    rule, labels = LOSSES.get(kind), torch.zeros(2, 5, dtype=torch.long)
    batch = {"labels": labels} if "labels" in rule.labels else dict.fromkeys(rule.labels, labels)
    with pytest.raises(DataError, match="do not fit"):
        loss_sum(rule, torch.zeros(2, 3, 7), batch)
    with pytest.raises(DataError, match="no labels"):
        LOSSES.get(kind).count({"input_ids": torch.zeros(1, 2)})


def test_a_model_without_logits_is_told() -> None:
    class Hidden:
        logits = None
        main = torch.zeros(1, 2, 5)

    objective = ModelObjective(lambda **_: Hidden(), CAUSAL, num_outputs=11)
    batch = {"input_ids": torch.zeros(1, 2, dtype=torch.long), "labels": torch.zeros(1, 2, dtype=torch.long)}
    with pytest.raises(ModelError, match="no logits"):
        objective.loss_sum(objective.prepare(batch))
