"""Laws of every registered attention mechanism, for each value of its knobs.

It equals its slow twin in values and gradients, looks at nothing later, at no other row and at no padding,
keeps nothing between calls, decodes with a cache what it computes without, and costs what its record says.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws.mechanisms import L, V, cases, config_of, ids, label, main_cases, tiny
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from torchstone.config.knobs import knobs_of
from torchstone.nn.attention import fused
from torchstone.nn.attention.context import AttentionContext, Handoff
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import ModelConfig
from torchstone.nn.costs import costs
from torchstone.nn.gpt import GPT
from torchstone.nn.naive import naive_logits
from torchstone.nn.rotary import rotation

CASES = [case for record in ATTENTIONS for case in cases("attention", record.name)]
each_case = pytest.mark.parametrize("case", CASES, ids=label)
MAIN_CASES = [case for record in ATTENTIONS for case in main_cases("attention", record.name)]
each_main_case = pytest.mark.parametrize("case", MAIN_CASES, ids=label)
each_mechanism = pytest.mark.parametrize("name", ATTENTIONS.names())


def usual(name: str) -> dict[str, Any]:
    return cases("attention", name)[0]


def parts(logits: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter."""
    names = dict(model.named_parameters())
    found = torch.autograd.grad(logits.pow(2).mean(), list(names.values()), allow_unused=True)
    return {
        name: torch.zeros_like(names[name]) if each is None else each
        for name, each in zip(names, found, strict=True)
    }


# --- what it computes ---------------------------------------------------------------------------


@each_case
def test_equals_its_naive_twin_in_values_and_gradients(case: dict[str, Any]) -> None:
    model, sequence = tiny(case), ids(7)
    fast, slow = model(sequence[None]).logits[0], naive_logits(model, sequence)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    slow_gradients = parts(slow, model)
    for name, each in parts(fast, model).items():
        torch.testing.assert_close(
            each, slow_gradients[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@each_case
@torch.no_grad()
def test_hears_the_block_before_and_tells_its_mlp_what_its_twin_tells(case: dict[str, Any]) -> None:
    model = tiny(case)
    config, (record, _) = model.config, model.config.mechanisms
    torch.manual_seed(2)
    T, layer = 7, model.blocks[0].attention
    x = torch.randn(T, config.d_model)
    width = record.latent_width(config)
    sent = Handoff(
        gate=torch.rand(config.num_heads, T),
        latent=None if width is None else torch.randn(T, width),
    )
    rotary = None if model.rotary_width is None else rotation(torch.arange(T)[None], model.rotary_width)
    context = AttentionContext(rotary=rotary, keep_weights=True)
    batched = Handoff(*(None if each is None else each[None] for each in sent))
    fast = layer(x[None], context, batched, None)
    slow = record.naive(layer, x, config, sent)
    torch.testing.assert_close(fast.out[0], slow.out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast.weights[0], slow.weights, atol=1e-5, rtol=1e-5)
    assert (fast.latent is None) == (slow.latent is None) == (width is None)
    if width is not None:
        assert fast.latent.shape == (1, T, width)
        torch.testing.assert_close(fast.latent[0], slow.latent, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(layer(x[None], context, batched._replace(latent=None), None).out, fast.out)
    assert not torch.allclose(layer(x[None], context, batched._replace(gate=None), None).out, fast.out)


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
    assert model(sequence).past_key_values is None


@each_case
@torch.no_grad()
def test_the_cache_holds_as_many_numbers_as_stated(case: dict[str, Any]) -> None:
    model = tiny(case)
    for tokens in (3, 11, L):
        sequence = ids(2, tokens)
        cache = model(sequence[:, :-1], use_cache=True).past_key_values
        cache = model(sequence[:, -1:], past_key_values=cache, use_cache=True).past_key_values
        held = sum(tensor.numel() for block in cache for tensor in block) / 2
        assert held == costs(model.config, tokens).cache_numbers
        assert all(block[0].shape[2] == tokens for block in cache)
        # A view of something larger would keep all of that.
        storages = {each.untyped_storage().data_ptr(): each for block in cache for each in block}
        assert sum(each.untyped_storage().nbytes() for each in storages.values()) <= 2 * held * 4


@each_mechanism
@torch.no_grad()
def test_a_cache_of_unequal_lengths_is_refused(name: str) -> None:
    model = tiny(usual(name))
    cache = model(ids(2, 8), use_cache=True).past_key_values
    for index, tensor in enumerate(cache[0]):
        if tensor.numel():
            cut = (*cache[0][:index], tensor[:, :, 1:], *cache[0][index + 1 :])
            with pytest.raises((AssertionError, RuntimeError)):
                model(ids(2, 3), past_key_values=(cut, *cache[1:]))


# --- what it costs ------------------------------------------------------------------------------

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def fused_flops(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    B, H, T, D = q
    return 2 * B * H * T * k[2] * (D + v[3])


@each_case
def test_parameters_are_the_formula(case: dict[str, Any]) -> None:
    model = tiny(case)
    assert sum(each.numel() for each in model.parameters()) == costs(model.config).parameters


@each_case
@torch.no_grad()
def test_flops_are_the_formula(case: dict[str, Any]) -> None:
    model = tiny(case)
    for tokens in (5, 19):
        # torch's counter does not know the fused kernel of its own CPU.
        with FlopCounterMode(display=False, custom_mapping={FUSED: fused_flops}) as counter:
            model(ids(1, tokens))
        assert counter.get_total_flops() == costs(model.config, tokens).flops


class _Squares(TorchDispatchMode):
    """Whether a floating tensor of T x T per head is made."""

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
def test_says_truly_whether_it_makes_squares(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = 23
    monkeypatch.setattr(fused, "ROWS", 5)
    model = tiny(case).train()
    with _Squares(tokens) as squares:
        model(ids(2, tokens)).logits.sum().backward()
    assert squares.seen == costs(model.config).materialises


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


@each_mechanism
def test_starts_as_a_sound_model_and_learns(name: str) -> None:
    torch.manual_seed(0)
    model, batch = GPT(config_of(usual(name))).train(), ids(2, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    guessing = torch.tensor(V).log().item()
    assert abs(losses[0] - guessing) < 0.2
    assert losses[-1] < 0.6 * guessing


@each_main_case
@torch.no_grad()
def test_low_precision_stays_close(case: dict[str, Any]) -> None:
    model, sequence = tiny(case), ids(2, L)
    exact = model(sequence).logits
    rough = model.to(torch.bfloat16)(sequence).logits
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.08 * exact.abs().max()


@each_mechanism
def test_is_compiled_whole(name: str) -> None:
    torch._dynamo.reset()
    model, sequence = tiny(usual(name), num_layers=1).train(), ids(2, 9)
    plain = model(sequence).logits
    # Tracing and differentiation ahead of time, without the minutes of making kernels.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(sequence).logits
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)
    gradients = parts(plain, model)
    for parameter, each in parts(compiled, model).items():
        torch.testing.assert_close(each, gradients[parameter], atol=1e-5, rtol=1e-4)


# --- how it is offered --------------------------------------------------------------------------


def test_configuration_offers_what_is_registered() -> None:
    assert list(knobs_of({"model": ModelConfig})["model.attention.name"].choices) == ATTENTIONS.names()


@pytest.mark.parametrize("record", ATTENTIONS, ids=ATTENTIONS.names())
def test_says_what_it_is_and_where_it_comes_from(record: Any) -> None:
    assert record.summary and record.source
