"""Entropy and reciprocity of heads are those of a plain loop over queries and pairs."""

from __future__ import annotations

import math

import pytest
import torch
from laws.mechanisms import CASES, Case, ids, shared
from torch import Tensor

from torchstone.nn.attention import fused
from torchstone.nn.attention.context import AttentionContext, Handoff, Looked, causal_mask
from torchstone.nn.attention.look import HeadLook
from torchstone.nn.attention.scores import Scores
from torchstone.nn.gpt import GPT, GPTConfig


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive(scores: Scores, weights: Tensor, seen: Tensor) -> tuple[list[float], list[float]]:
    """One query and one pair at a time; `seen` (B, T, T) says which counts, `weights` (B, H, T, T)."""
    entropy, reciprocity = [], []
    for head in range(scores.q.shape[1]):
        found, there, back = [], [], []
        for b, i in torch.cartesian_prod(torch.arange(len(seen)), torch.arange(seen.shape[1])).tolist():
            looked = [j for j in range(i + 1) if seen[b, i, j]]
            if len(looked) > 1:
                found.append(-sum(p * math.log(p) for p in weights[b, head, i].tolist() if p > 0))
            q, k = scores.q[b, head], scores.k[b, head]
            there += [float(q[i] @ k[j]) for j in looked if j < i]
            back += [float(q[j] @ k[i]) for j in looked if j < i]
        entropy.append(sum(found) / len(found))
        reciprocity.append(float(torch.corrcoef(torch.tensor([there, back], dtype=torch.float64))[0, 1]))
    return entropy, reciprocity


@pytest.mark.parametrize("padding", ["none", "right"])
def test_equals_a_loop_over_queries_and_pairs(padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ROWS", 3)
    q, k, extra = drawn(2, 2, 7, 3), drawn(2, 2, 7, 3, seed=1), drawn(2, 2, 7, 3, seed=2)
    real = torch.ones(2, 7, dtype=torch.bool)
    mask = None
    if padding == "right":
        real[1, 5:] = False
        mask = causal_mask(7, 7, real.long(), q.device)
    context = AttentionContext(mask=mask)
    scores = Scores(q, k, 0.7, extra, q, window=2)
    seen = fused.visible(7, 7, context, q.device).expand(2, 1, 7, 7)[:, 0] & real[:, None] & real[:, :, None]
    entropy, reciprocity = naive(scores, scores.rows(context, 0, 7).softmax(-1), seen)
    whole, parts = HeadLook(), HeadLook()
    whole.add(Looked(scores, context), None if mask is None else real)
    for b in range(2):
        part = Scores(q[b : b + 1], k[b : b + 1], 0.7, extra[b : b + 1], q[b : b + 1], window=2)
        narrowed = AttentionContext(mask=None if mask is None else mask[b : b + 1])
        parts.add(Looked(part, narrowed), real[b : b + 1])
    for look in (whole, parts):
        assert look.entropy.tolist() == pytest.approx(entropy, rel=1e-5)
        assert look.reciprocity.tolist() == pytest.approx(reciprocity, rel=1e-5)


def test_known_heads_have_known_numbers() -> None:
    q = torch.stack([drawn(1, 6, 4), torch.zeros(1, 6, 4), 50 * drawn(1, 6, 4, seed=3)], dim=1)
    look = HeadLook()
    look.add(Looked(Scores(q, q, 1.0), AttentionContext()))
    even = sum(math.log(n) for n in range(2, 7)) / 5
    assert look.reciprocity[0] == pytest.approx(1.0) and look.reciprocity[1].isnan()
    assert look.entropy[1] == pytest.approx(even) and look.entropy[2] < 0.1 < look.entropy[0] < even
    opposed = HeadLook()  # what i thinks of j is minus what j thinks of i
    turned = torch.stack([q[:, 0, :, 1], -q[:, 0, :, 0]], dim=-1)[:, None]
    opposed.add(Looked(Scores(q[:, :1, :, :2], turned, 1.0), AttentionContext()))
    assert opposed.reciprocity[0] == pytest.approx(-1.0)


MAIN = [case for case in CASES if case.rank == 0]


@pytest.mark.parametrize("case", MAIN, ids=[f"{each.section}-{each.label}" for each in MAIN])
@torch.no_grad()
def test_every_mechanism_tells_the_scores_of_its_weights(case: Case) -> None:
    """The laws hold the weights to the slow twin; here the scores are held to the weights."""
    model, sequence = shared(case), ids(2, 9)
    context = AttentionContext(keep_scores=True, keep_weights=True)
    x = drawn(2, 9, model.config.d_model)
    if model.rotary_width is None:
        told = model.blocks[0].attention(x, context, Handoff(), None)
        scores, within, shares = told.looked
        weights = (1 if shares is None else shares) * scores.rows(within, 0, 9).softmax(-1)
        torch.testing.assert_close((weights / weights.sum(-1, keepdim=True)).mean(1), told.weights)
    plain = model(sequence).logits
    assert all(each.looked is not None for each in model.attended(sequence))
    assert torch.equal(model(sequence).logits, plain)


def test_looks_at_what_the_forward_pass_computes() -> None:
    """The last block's output of the walk is that of the model, so the walk is the model's own."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=20, max_seq_len=8, d_model=8, num_layers=3, num_heads=2)).eval()
    sequence, outputs = ids(2, 8) % 20, []
    handle = model.blocks[-1].attention.register_forward_hook(lambda *args: outputs.append(args[2].out))
    try:
        told = list(model.attended(sequence))[-1].out
        model(sequence)
    finally:
        handle.remove()
    assert all(torch.equal(each, told) for each in outputs) and len(outputs) == 3
