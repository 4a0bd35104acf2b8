"""Laws of every registered attention mechanism and every registered MLP, for each value of its knobs.

It equals its slow twin in values and gradients, looks at nothing later, at no other row and at no padding,
keeps nothing between calls, decodes with a cache what it computes without, and costs what its record says.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws.mechanisms import (
    CASES,
    OF_ATTENTION,
    Case,
    L,
    V,
    counted_flops,
    gradients,
    ids,
    shared,
    tiny,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchstone.config.knobs import knobs_of
from torchstone.nn.attention import fused
from torchstone.nn.attention.context import AttentionContext, Handoff
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import ModelConfig
from torchstone.nn.costs import costs
from torchstone.nn.gpt import GPT
from torchstone.nn.mlp.registry import MLPS
from torchstone.nn.naive import naive_logits
from torchstone.nn.rotary import rotation


def over(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[f"{each.section}-{each.label}" for each in cases])


each_case = over(CASES)
each_main_case = over([case for case in CASES if case.rank < 2])
each_mechanism = over([case for case in CASES if case.rank == 0])
each_attention = over([case for found in OF_ATTENTION.values() for case in found])


def same(found: Tensor, wanted: Tensor, what: str = "values") -> None:
    torch.testing.assert_close(
        found, wanted, atol=1e-5, rtol=1e-5 if what == "values" else 1e-4, msg=lambda text: f"{what}: {text}"
    )


# --- what it computes ---------------------------------------------------------------------------


@each_case
def test_equals_its_naive_twin_in_values_and_gradients(case: Case) -> None:
    # What blocks say to each other is the law below; MLPs that speak have it here.
    model = shared(case, num_layers=1) if case.section == "attention" else shared(case)
    sequence = ids(7)
    fast, slow = model(sequence[None]).logits[0], naive_logits(model, sequence)
    same(fast, slow)
    of_slow = gradients(slow, model)
    for name, each in gradients(fast, model).items():
        same(each, of_slow[name], name)


@each_attention
@torch.no_grad()
def test_hears_the_block_before_and_tells_its_mlp_what_its_twin_tells(case: Case) -> None:
    model = shared(case)
    config, (record, _) = model.config, model.config.mechanisms
    torch.manual_seed(2)
    T, layer = 7, model.blocks[0].attention
    x = torch.randn(T, config.d_model)
    width = record.latent_width(config)
    sent = Handoff(
        gate=torch.rand(config.num_heads, T),
        latent=None if width is None else torch.randn(T, width),
        confidence=torch.rand(()) if record.hears_confidence(config) else None,
    )
    rotary = None if model.rotary_width is None else rotation(torch.arange(T)[None], model.rotary_width)
    context = AttentionContext(rotary=rotary, keep_weights=True)
    batched = Handoff(*(None if each is None else each[None] if each.dim() else each for each in sent))
    fast = layer(x[None], context, batched, None)
    slow = record.naive(layer, x, config, sent)
    same(fast.out[0], slow.out)
    same(fast.weights[0], slow.weights)
    assert (fast.latent is None) == (slow.latent is None) == (width is None)
    if width is not None:
        assert fast.latent.shape == (1, T, width)
        same(fast.latent[0], slow.latent)
        assert not torch.allclose(layer(x[None], context, batched._replace(latent=None), None).out, fast.out)
    assert not torch.allclose(layer(x[None], context, batched._replace(gate=None), None).out, fast.out)


# --- what it must not see -----------------------------------------------------------------------


@each_case
@torch.no_grad()
def test_never_looks_ahead(case: Case) -> None:
    model, sequence = shared(case), ids(2, L)
    before = model(sequence).logits
    for cut in (1, 6, L - 1):
        changed = sequence.clone()
        changed[:, cut:] = (changed[:, cut:] + 1) % V
        after = model(changed).logits
        torch.testing.assert_close(before[:, :cut], after[:, :cut], atol=1e-6, rtol=0)
        assert not torch.allclose(before[:, cut:], after[:, cut:])
    # A later token must not even count.
    same(model(sequence[:, :8]).logits, before[:, :8])


@each_main_case
@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(case: Case) -> None:
    model, sequence = shared(case), ids(3, 12)
    same(model(sequence).logits[1:2], model(sequence[1:2]).logits)


@each_case
@torch.no_grad()
def test_padding_changes_nothing(case: Case) -> None:
    model, real, pads = shared(case), ids(2, 9), ids(2, 4, seed=5)
    alone, ones, zeros = model(real).logits, torch.ones(2, 9).long(), torch.zeros(2, 4).long()
    for left in (True, False):
        padded = torch.cat([pads, real] if left else [real, pads], 1)
        mask = torch.cat([zeros, ones] if left else [ones, zeros], 1)
        first = model(padded[:, :6], attention_mask=mask[:, :6], use_cache=True)
        second = model(padded[:, 6:], attention_mask=mask, past_key_values=first.past_key_values)
        whole = model(padded, attention_mask=mask).logits
        for logits in (whole, torch.cat([first.logits, second.logits], 1)):
            assert logits.isfinite().all()
            same(logits[mask.bool()].view(2, 9, V), alone)


@each_main_case
def test_keeps_nothing_between_calls(case: Case) -> None:
    model, sequence = tiny(case, dropout=0.1), ids(2, 12)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = attributes_of(model)
    before = model(sequence).logits
    model.train()
    model(ids(3, 8, seed=4)).logits.sum().backward()
    model.eval()
    with torch.no_grad():
        model(ids(1, 5, seed=7), use_cache=True)
    assert torch.equal(model(sequence).logits, before)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert attributes_of(model) == attributes


def attributes_of(model: nn.Module) -> dict[str, Any]:
    """What the modules hold beside parameters and buffers: plain values, and which objects the others are."""
    return {
        f"{name}.{key}": value if isinstance(value, int | float | str | tuple | None) else id(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
    }


@each_main_case
@torch.no_grad()
def test_blocks_speak_through_arguments_and_the_first_is_told_nothing(case: Case) -> None:
    model, told, said = shared(case, num_layers=3), [], []
    model(ids(2, 9))  # of which nothing may be left
    handles = []
    for block in model.blocks:
        handles.append(block.register_forward_pre_hook(lambda _, args: told.append(args[2])))
        handles.append(block.register_forward_hook(lambda _, args, out: said.append(out[1])))
    try:
        whole = model(ids(2, 9)).logits
    finally:
        for handle in handles:
            handle.remove()
    assert told[0] == Handoff()
    assert told[1] is said[0] and told[2] is said[1]
    # Called alone, and behind other calls, a block does what it did in its place.
    x = model.token_embedding(ids(2, 9))
    x = x if model.position_embedding is None else x + model.position_embedding.weight[:9]
    context, sent = model._context(ids(2, 9), None, torch.arange(9)[None], 0, False), Handoff()
    for block in model.blocks:
        block(torch.randn_like(x), context, Handoff())
        x, sent, _ = block(x, context, sent)
    same(model.head(model.final_norm(x))[..., :V], whole)


# --- decoding -----------------------------------------------------------------------------------


@each_case
@torch.no_grad()
def test_cached_decoding_equals_full_forward(case: Case) -> None:
    model, sequence = shared(case), ids(2, L)
    full = model(sequence)
    assert full.past_key_values is None
    for pieces in ([1] * L, [5, 1, 1, L - 7]):
        cache, logits = None, []
        for piece in sequence.split(pieces, dim=1):
            output = model(piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits)
        same(torch.cat(logits, dim=1), full.logits)


@each_case
@torch.no_grad()
def test_the_cache_holds_as_many_numbers_as_stated(case: Case) -> None:
    model = shared(case)
    for tokens in (3, L):
        sequence = ids(2, tokens)
        cache = model(sequence[:, :-1], use_cache=True).past_key_values
        cache = model(sequence[:, -1:], past_key_values=cache, use_cache=True).past_key_values
        held = sum(tensor.numel() for block in cache for tensor in block) / 2
        stated = costs(model.config, tokens).cache_numbers
        is_limit = model.config.mechanisms[0].cache_is_limit(model.config)
        assert 0 < held <= stated if is_limit else held == stated
        assert all(block[0].shape[2] == tokens for block in cache)
        # A view of something larger would keep all of that.
        storages = {each.untyped_storage().data_ptr(): each for block in cache for each in block}
        assert sum(each.untyped_storage().nbytes() for each in storages.values()) <= 2 * held * 4


@each_mechanism
@torch.no_grad()
def test_a_cache_of_unequal_lengths_is_refused(case: Case) -> None:
    model = shared(case)
    cache = model(ids(2, 8), use_cache=True).past_key_values
    held = [index for index, tensor in enumerate(cache[0]) if tensor.numel()]
    # One token needs no mask, whose size would give the lengths away; a single tensor has one length.
    for tokens in (3,) if len(held) == 1 else (3, 1):
        for index in held:
            cut = (*cache[0][:index], cache[0][index][:, :, 1:], *cache[0][index + 1 :])
            with pytest.raises((AssertionError, RuntimeError)):
                model(ids(2, tokens), past_key_values=(cut, *cache[1:]))


# --- what it costs ------------------------------------------------------------------------------


@each_case
@torch.no_grad()
def test_parameters_and_flops_are_the_formula(case: Case) -> None:
    model = shared(case)
    assert sum(each.numel() for each in model.parameters()) == costs(model.config).parameters
    for tokens in (5, L):
        assert counted_flops(model, tokens) == costs(model.config, tokens).flops


class _Squares(TorchDispatchMode):
    """Whether a floating tensor of T x T is made."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.seen = tokens, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and each.is_floating_point() and each.dim() >= 2:
                self.seen |= tuple(each.shape[-2:]) == (self.tokens, self.tokens)
        return out


@each_case
def test_says_truly_whether_it_makes_squares(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = 13  # no other size of these models
    monkeypatch.setattr(fused, "ROWS", 5)
    model = tiny(case).train()
    with _Squares(tokens) as squares:
        model(ids(2, tokens)).logits.sum().backward()
    _, mlp = model.config.mechanisms
    assert squares.seen == (costs(model.config).materialises or mlp.reads_weights(model.config))


# --- training -----------------------------------------------------------------------------------


def loss_of(model: GPT, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


@each_case
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    model = tiny(case).train()
    loss_of(model, ids(4, 12)).backward()
    for name, each in model.named_parameters():
        assert each.grad is not None and each.grad.isfinite().all(), name
        assert each.grad.abs().max() > 0, name


@each_main_case
def test_two_micro_batches_twice_make_the_step_of_one_batch(case: Case) -> None:
    batch = ids(4, 12)
    one, two = tiny(case).train(), tiny(case).train()
    for model, num_parts in ((one, 1), (two, 2)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            for part in batch.chunk(num_parts):
                (loss_of(model, part) / num_parts).backward()
            optimizer.step()
    for (name, each), other in zip(one.named_parameters(), two.parameters(), strict=True):
        same(each, other, name)


@each_mechanism
def test_starts_as_a_sound_model_and_learns(case: Case) -> None:
    torch.manual_seed(0)
    model, batch = GPT(case.config()).train(), ids(2, 9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    losses = []
    for _ in range(10):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    guessing = torch.tensor(V).log().item()
    assert abs(losses[0] - guessing) < 0.2
    assert losses[-1] < 0.6 * guessing


@each_main_case
@torch.no_grad()
def test_low_precision_stays_close(case: Case) -> None:
    sequence = ids(2, L)
    exact = shared(case)(sequence).logits
    rough = tiny(case).to(torch.bfloat16)(sequence).logits
    assert rough.dtype == torch.bfloat16
    # The mean, for a place on the border of what is seen may fall to either side.
    assert (rough.float() - exact).abs().mean() < 0.02 * exact.abs().max()


AHEAD = ("mla-ra-ct", "rwr", "kv-pruned", "reciprocal")
"""Between them they hold what all are made of: latents, wide scores, statistics, walks, choices, handoffs."""


@each_mechanism
def test_is_compiled_whole(case: Case) -> None:
    torch._dynamo.reset()
    model, sequence = tiny(case, num_layers=1 if case.section == "attention" else 2).train(), ids(2, 6)
    plain = model(sequence).logits
    # Traced whole; some are differentiated ahead of time too, at three times the cost. No kernels are made.
    backend = "aot_eager" if case.name in AHEAD else "eager"
    compiled = torch.compile(model, backend=backend, fullgraph=True)(sequence).logits
    same(compiled, plain)
    of_plain = gradients(plain, model)
    for name, each in gradients(compiled, model).items():
        same(each, of_plain[name], name)


# --- how it is offered --------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "registry"), [("attention", ATTENTIONS), ("mlp", MLPS)])
def test_configuration_offers_what_is_registered(section: str, registry: Any) -> None:
    assert list(knobs_of({"model": ModelConfig})[f"model.{section}.name"].choices) == registry.names()
    assert all(record.summary and record.equation and record.source for record in registry)
