"""How mechanisms begin, and that each is plain attention where its options say so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone._errors import ConfigError
from torchstone.nn.config import AttentionConfig
from torchstone.nn.gpt import GPT, GPTConfig

SIZES: dict[str, Any] = {
    "vocab_size": 23,
    "max_seq_len": 12,
    "d_model": 32,
    "num_layers": 3,
    "num_heads": 4,
}


def gpt(name: str, **options: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**SIZES, attention=AttentionConfig(name=name, **options))).eval()


def ids() -> Tensor:
    return torch.randint(0, 23, (2, 12), generator=torch.Generator().manual_seed(1))


NEUTRAL = {
    "ra without weight": ("ra", {"alpha": 0.0}),
    "ra-ct without strength": ("ra-ct", {"strength": 0.0}),
    "ra-ct on scores without strength": ("ra-ct", {"strength": 0.0, "apply": "weights"}),
    "ra-residual as it begins": ("ra-residual", {}),
    "pruned of nothing": ("kv-pruned", {"importance": "norm", "keep": 12}),
    "recent is everything": ("kv-pruned", {"importance": "recency", "recent": 12}),
    "spliced with all dimensions": ("kvsplice", {"value_rank": 8}),
    "walks without weight": ("rwr", {"gamma": 0.0}),
}


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), NEUTRAL.values(), ids=list(NEUTRAL))
def test_is_plain_attention_where_it_adds_nothing(name: str, options: dict[str, Any]) -> None:
    plain, other = gpt("sdpa"), gpt(name, **options)
    for each in plain.parameters():
        each.add_(0.2 * torch.randn_like(each))
    found = other.load_state_dict(plain.state_dict(), strict=False)
    assert not found.unexpected_keys
    torch.testing.assert_close(other(ids()).logits, plain(ids()).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_untied_fold_is_ordinary_attention_with_rescaled_rows() -> None:
    plain, folded = gpt("sdpa"), gpt("ra_folded_untied_2025", rank=2)
    for ours, theirs in zip(plain.blocks, folded.blocks, strict=True):
        theirs.attention.standard.uniform_(0.2, 1.0)
        theirs.attention.reciprocal.uniform_(0.2, 1.0)
        roots = torch.cat(
            [
                theirs.attention.standard.sqrt()[:, None].expand(-1, 6),
                theirs.attention.reciprocal.sqrt()[:, None].expand(-1, 2),
            ],
            dim=1,
        ).flatten()
        rows = torch.cat([roots, roots, torch.ones(32)])
        ours.attention.qkv.weight.copy_(rows[:, None] * theirs.attention.qkv.weight)
        ours.attention.qkv.bias.zero_()
    rest = {name: value for name, value in folded.state_dict().items() if ".qkv." not in name}
    plain.load_state_dict(rest, strict=False)
    torch.testing.assert_close(folded(ids()).logits, plain(ids()).logits, atol=1e-5, rtol=1e-5)


def test_begins_as_published() -> None:
    mla = gpt("mla", latent=12).blocks[1].attention
    into, out_of = mla.into_latent.detach(), mla.out_of_latent.detach()
    bound = (6 / (8 + 12)) ** 0.5
    assert 0.9 * bound / 2**0.5 < into.abs().max() <= bound / 2**0.5
    assert 0.9 * bound / 12**0.5 < out_of.abs().max() <= bound / 12**0.5

    gate = gpt("ra-ct").blocks[0].attention.cross_token
    assert torch.equal(gate.scale, torch.ones(4)) and torch.equal(gate.bias, torch.full((4,), 2.0))
    assert gpt("ra", learn_alpha=True).blocks[2].attention.reciprocity.alpha.item() == pytest.approx(0.3)
    assert gpt("self-restart").blocks[0].attention.restart.share.tolist() == pytest.approx([0.05] * 4)
    folded = gpt("ra-folded", rank=2).blocks[0].attention
    assert folded.standard.tolist() == pytest.approx([6 / 8] * 4)
    assert folded.reciprocal.tolist() == pytest.approx([2 / 8] * 4)

    lens = gpt("lens", route=True).blocks[0].attention
    shares = lens.logits.softmax(dim=-1)[0].tolist()
    assert [round(each, 2) for each in shares] == [0.76, 0.15, 0.09]
    assert lens.route().item() == pytest.approx(1 / (1 + torch.e**-2.2))

    spliced = gpt("mla-kvsplice", latent=12, kept=5).blocks[0].attention
    assert torch.equal(spliced.expand, spliced.compress.T)
    torch.testing.assert_close(spliced.compress.T @ spliced.compress, torch.eye(5), atol=1e-5, rtol=0)


@torch.no_grad()
def test_narrow_keys_begin_as_the_best_approximation() -> None:
    key = gpt("lens", compress=32).blocks[0].attention.key
    whole = key.up.weight @ key.down.weight
    # With all channels nothing is lost, so it is as wide as any projection begins.
    assert whole.std().item() == pytest.approx(0.02, rel=0.1)
    sizes = torch.linalg.svdvals(whole)
    narrow = gpt("lens", compress=9).blocks[0].attention.key
    some = torch.linalg.svdvals(narrow.up.weight @ narrow.down.weight)
    assert some[8] > 0.3 * sizes[8] and some[9] < 1e-6


@torch.no_grad()
def test_the_folded_term_waits_for_its_steps() -> None:
    model = gpt("ra-folded", rank=2, activation_steps=75)
    plain = gpt("ra-folded", rank=2, activation_steps=75)
    for block in plain.blocks:
        block.attention.reciprocal.zero_()
    assert model.blocks[0].attention.reciprocal.tolist() == pytest.approx([0.1] * 4)
    for step, same in ((0, True), (74, True), (75, False)):
        for block in model.blocks:
            block.attention.switch.at_step(step)
        assert torch.equal(model(ids()).logits, plain(ids()).logits) == same


def test_the_route_anneals_with_the_steps() -> None:
    route = gpt("lens", route=True).blocks[0].attention.route
    for step, bias in ((0, 0.0), (2000, 0.0), (6000, -1.6), (10_000, -3.2), (20_000, -3.2)):
        route.at_step(step)
        assert route.bias.item() == pytest.approx(bias)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("ra-folded", {"rank": 8}, "leaves nothing of a head of 8"),
        ("ra-residual", {"swapped_heads": 5}, "more than num_heads=4"),
        ("lens", {"compress": 33}, "more than d_model=32"),
        ("lens", {"route": True, "route_start": 9, "route_stop": 9}, "not behind"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gpt(name, **options)
