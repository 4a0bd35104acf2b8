"""What goes from a block's attention to its MLP, and from there to the next block."""

from __future__ import annotations

import pytest
import torch
from laws.mechanisms import LATENT, OF_ATTENTION, Case, L, config_of, counted_flops, ids, shared

from torchstone._errors import ConfigError
from torchstone.nn.attention.context import AttentionContext, Handoff
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import MLPConfig
from torchstone.nn.costs import costs
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.nn.naive import naive_logits

ALL = {"name": "reciprocal", "latent_context": True, "attention_gate": "running-mean", "topk": 2}


@torch.no_grad()
def test_what_a_block_sends_is_heard_by_the_next_one_only() -> None:
    model = GPT(config_of({"mlp": ALL, "attention": LATENT, "num_layers": 3})).eval()
    heard: list[Handoff] = []
    for block in model.blocks:
        block.attention.register_forward_pre_hook(lambda _, args: heard.append(args[2]))
    model(ids(2, 7))
    assert heard[0] == Handoff()
    assert all(each.gate is not None and each.latent is not None for each in heard[1:])
    assert all(each.gate.shape == (2, 4, 7) and each.latent.shape == (2, 7, 6) for each in heard[1:])
    context = AttentionContext(keep_weights=True)
    assert model.blocks[-1](torch.randn(2, 7, 16), context, Handoff())[1] == Handoff()


@torch.no_grad()
def test_begins_close_to_the_plain_mlp() -> None:
    torch.manual_seed(0)
    model = GPT(config_of({"mlp": ALL, "attention": LATENT}, num_layers=3)).eval()
    torch.manual_seed(0)
    plain = GPT(config_of({"mlp": {"name": "dense"}, "attention": LATENT}, num_layers=3)).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    ours, theirs = model(ids(2, L)).logits, plain(ids(2, L)).logits
    assert 0 < (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


@pytest.mark.parametrize("name", ATTENTIONS.names())
@torch.no_grad()
def test_works_behind_every_attention_at_the_stated_cost(name: str) -> None:
    mlp = {"name": "reciprocal", "attention_gate": "running-mean"}
    settings = {**OF_ATTENTION[name][0].settings, "mlp": mlp}
    model = shared(Case(f"reciprocal-behind-{name}", "mlp", settings))
    found, wanted = model(ids(7)[None]).logits[0], naive_logits(model, ids(7))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert counted_flops(model, L) == costs(model.config, L).flops


@torch.no_grad()
def test_a_conducted_context_counts_once_the_route_has_turned() -> None:
    lens = {"mlp": {"name": "lens-context", "context_width": 5, "conductor": True}, "num_layers": 1}
    model = GPT(config_of({**lens, "attention": {"name": "lens", "route": True}})).eval()
    plain = GPT(config_of({**lens, "attention": {"name": "lens", "route": True}})).eval()
    plain.load_state_dict(model.state_dict())
    plain.blocks[0].mlp.share.zero_()
    for step, same in ((0, True), (10_000, False)):
        for each in (model, plain):
            each.blocks[0].attention.route.at_step(step)
        assert torch.equal(model(ids(2, L)).logits, plain(ids(2, L)).logits) == same
    with pytest.raises(ConfigError, match="no route to follow"):
        GPT(config_of(lens))


def test_a_block_of_attention_alone_has_nothing_to_size() -> None:
    model = GPT(config_of({"mlp": {"name": "absent"}}))
    assert not [name for name, _ in model.named_parameters() if "mlp" in name]
    with pytest.raises(ConfigError, match="sizes nothing of MLP absent"):
        GPT(GPTConfig(mlp=MLPConfig(name="absent", ratio=2.5)))


def test_a_reciprocal_mlp_without_a_part_or_a_latent_is_refused() -> None:
    off = MLPConfig(name="reciprocal", attention_gate="off", cross_token=False)
    with pytest.raises(ConfigError, match="no part that does anything"):
        GPT(GPTConfig(mlp=off))
    with pytest.raises(ConfigError, match="reads the latent"):
        GPTConfig(mlp=MLPConfig(name="reciprocal", latent_context=True))
