"""Laws of every registered MLP, for each value of its knobs, behind attention with a latent and without.

It equals its slow twin in values and gradients, looks at nothing later, at no other row and at no padding,
keeps nothing between calls, decodes with a cache what it computes without, and costs what its record says.
What it sends reaches the next block, and nobody hears the last one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws.mechanisms import L, V, cases, config_of, ids, label, main_cases, tiny
from laws.test_attention_mechanisms import FUSED, fused_flops, parts
from torch.utils.flop_counter import FlopCounterMode

from torchstone._errors import ConfigError
from torchstone.config.knobs import knobs_of
from torchstone.nn.attention.context import AttentionContext, Handoff
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import MLPConfig, ModelConfig
from torchstone.nn.costs import costs
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.nn.mlp.registry import MLPS
from torchstone.nn.naive import naive_logits

MLA = {"name": "mla", "latent": 6}


def behind(case: dict[str, Any]) -> dict[str, Any]:
    """The case behind an attention with a latent, where it reads one."""
    return {**case, "attention": MLA} if case["mlp"].get("latent_context") else case


def named(case: dict[str, Any]) -> str:
    return label({key: value for key, value in case.items() if key != "attention"})


CASES = [behind(case) for record in MLPS for case in cases("mlp", record.name)]
MAIN_CASES = [behind(case) for record in MLPS for case in main_cases("mlp", record.name)]
each_case = pytest.mark.parametrize("case", CASES, ids=named)
each_main_case = pytest.mark.parametrize("case", MAIN_CASES, ids=named)
each_mechanism = pytest.mark.parametrize("name", MLPS.names())
ALL = {"name": "reciprocal", "latent_context": True, "attention_gate": "running-mean", "topk": 2}


# --- what it computes ---------------------------------------------------------------------------


@each_case
def test_equals_its_naive_twin_in_values_and_gradients(case: dict[str, Any]) -> None:
    model, sequence = tiny(case, num_layers=3), ids(7)
    fast, slow = model(sequence[None]).logits[0], naive_logits(model, sequence)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    slow_gradients = parts(slow, model)
    for name, each in parts(fast, model).items():
        torch.testing.assert_close(
            each, slow_gradients[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@torch.no_grad()
def test_what_a_block_sends_is_heard_by_the_next_one_only() -> None:
    model = tiny({"mlp": ALL, "attention": MLA}, num_layers=3)
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
    model = GPT(config_of({"mlp": ALL, "attention": MLA}, num_layers=3)).eval()
    torch.manual_seed(0)
    plain = GPT(config_of({"mlp": {"name": "dense"}, "attention": MLA}, num_layers=3)).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    ours, theirs = model(ids(2, L)).logits, plain(ids(2, L)).logits
    assert 0 < (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


# --- what it must not see -----------------------------------------------------------------------


@each_case
@torch.no_grad()
def test_never_looks_ahead(case: dict[str, Any]) -> None:
    model, sequence = tiny(case), ids(2, L)
    before = model(sequence).logits
    for cut in (1, 7, 16, L - 1):
        changed = sequence.clone()
        changed[:, cut:] = (changed[:, cut:] + 1) % V
        after = model(changed).logits
        torch.testing.assert_close(before[:, :cut], after[:, :cut], atol=1e-6, rtol=0)
        assert not torch.allclose(before[:, cut:], after[:, cut:])
    # A later token must not even count.
    torch.testing.assert_close(model(sequence[:, :10]).logits, before[:, :10], atol=1e-5, rtol=1e-5)


@each_main_case
@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(case: dict[str, Any]) -> None:
    model, sequence = tiny(case), ids(3, 12)
    torch.testing.assert_close(model(sequence).logits[1:2], model(sequence[1:2]).logits, atol=1e-5, rtol=1e-5)


@each_case
@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(case: dict[str, Any], side: str) -> None:
    model, real, pads = tiny(case), ids(2, 10), ids(2, 4, seed=5)
    ones, zeros = torch.ones(2, 10).long(), torch.zeros(2, 4).long()
    left = side == "left"
    padded = torch.cat([pads, real] if left else [real, pads], 1)
    mask = torch.cat([zeros, ones] if left else [ones, zeros], 1)
    first = model(padded[:, :6], attention_mask=mask[:, :6], use_cache=True)
    second = model(padded[:, 6:], attention_mask=mask, past_key_values=first.past_key_values)
    alone = model(real).logits
    for logits in (
        model(padded, attention_mask=mask).logits,
        torch.cat([first.logits, second.logits], 1),
    ):
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[mask.bool()].view(2, 10, V), alone, atol=1e-5, rtol=1e-5)


@each_main_case
def test_keeps_nothing_between_calls(case: dict[str, Any]) -> None:
    model, sequence = tiny(case, dropout=0.1), ids(2, 12)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: set(vars(each)) for name, each in model.named_modules()}
    before = model(sequence).logits
    model.train()
    model(ids(3, 8, seed=4)).logits.sum().backward()
    model.eval()
    with torch.no_grad():
        model(ids(1, 5, seed=7), use_cache=True)
    assert torch.equal(model(sequence).logits, before)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert attributes == {name: set(vars(each)) for name, each in model.named_modules()}


# --- decoding -----------------------------------------------------------------------------------


@each_case
@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * L, [5, 1, 1, 10, L - 17]], ids=["one-by-one", "pieces"])
def test_cached_decoding_equals_full_forward(case: dict[str, Any], pieces: list[int]) -> None:
    model, sequence = tiny(case), ids(2, L)
    full, cache, logits = model(sequence).logits, None, []
    for piece in sequence.split(pieces, dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), full, atol=1e-5, rtol=1e-5)
    held = sum(tensor.numel() for block in cache for tensor in block) / 2
    assert held == costs(model.config, L).cache_numbers


# --- what it costs ------------------------------------------------------------------------------


@each_case
@torch.no_grad()
def test_parameters_and_flops_are_the_formula(case: dict[str, Any]) -> None:
    model = tiny(case, num_layers=3)
    assert sum(each.numel() for each in model.parameters()) == costs(model.config).parameters
    for tokens in (5, 19):
        # torch's counter does not know the fused kernel of its own CPU.
        with FlopCounterMode(display=False, custom_mapping={FUSED: fused_flops}) as counter:
            model(ids(1, tokens))
        assert counter.get_total_flops() == costs(model.config, tokens).flops


@pytest.mark.parametrize("name", ATTENTIONS.names())
@torch.no_grad()
def test_works_behind_every_attention_at_the_stated_cost(name: str) -> None:
    case = {**cases("attention", name)[0], "mlp": {"name": "reciprocal", "attention_gate": "running-mean"}}
    model = tiny(case)
    torch.testing.assert_close(
        model(ids(7)[None]).logits[0], naive_logits(model, ids(7)), atol=1e-5, rtol=1e-5
    )
    with FlopCounterMode(display=False, custom_mapping={FUSED: fused_flops}) as counter:
        model(ids(1, 19))
    assert counter.get_total_flops() == costs(model.config, 19).flops


# --- training -----------------------------------------------------------------------------------


@each_case
def test_every_parameter_gets_a_gradient(case: dict[str, Any]) -> None:
    model = tiny(case).train()
    batch = ids(4, 12)
    F.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()).backward()
    for name, each in model.named_parameters():
        assert each.grad is not None and each.grad.isfinite().all(), name
        assert each.grad.abs().max() > 0, name


@each_main_case
def test_two_micro_batches_twice_make_the_step_of_one_batch(case: dict[str, Any]) -> None:
    batch = ids(4, 12)
    one, two = tiny(case).train(), tiny(case).train()
    for model, num_parts in ((one, 1), (two, 2)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            for part in batch.chunk(num_parts):
                logits = model(part).logits[:, :-1].flatten(0, 1)
                (F.cross_entropy(logits, part[:, 1:].flatten()) / num_parts).backward()
            optimizer.step()
    for (name, each), other in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(each, other, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@each_main_case
def test_is_compiled_whole(case: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model, sequence = tiny(case).train(), ids(2, 9)
    plain = model(sequence).logits
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(sequence).logits
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)


@each_main_case
@torch.no_grad()
def test_low_precision_stays_close(case: dict[str, Any]) -> None:
    model, sequence = tiny(case), ids(2, L)
    exact = model(sequence).logits
    rough = model.to(torch.bfloat16)(sequence).logits
    assert rough.dtype == torch.bfloat16
    # The mean, for a weight on the border of what stays may fall to either side.
    assert (rough.float() - exact).abs().mean() < 0.02 * exact.abs().max()


# --- how it is offered --------------------------------------------------------------------------


def test_configuration_offers_what_is_registered() -> None:
    assert list(knobs_of({"model": ModelConfig})["model.mlp.name"].choices) == MLPS.names()


@pytest.mark.parametrize("record", MLPS, ids=MLPS.names())
def test_says_what_it_is_and_where_it_comes_from(record: Any) -> None:
    assert record.summary and record.source


def test_a_reciprocal_mlp_without_a_part_or_a_latent_is_refused() -> None:
    off = MLPConfig(name="reciprocal", attention_gate="off", cross_token=False)
    with pytest.raises(ConfigError, match="no part that does anything"):
        GPT(GPTConfig(mlp=off))
    with pytest.raises(ConfigError, match="reads the latent"):
        GPTConfig(mlp=MLPConfig(name="reciprocal", latent_context=True))
