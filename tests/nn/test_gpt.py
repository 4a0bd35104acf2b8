"""Laws of the reference decoder: it equals its slow twin and never looks ahead, cached or padded."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone._errors import ConfigError, UsageError
from torchstone.adapt.adapter import adapt
from torchstone.adapt.generate import generate
from torchstone.config.knobs import knobs_of
from torchstone.nn.attention.context import AttentionContext, causal_mask
from torchstone.nn.config import AttentionConfig, MLPConfig, ModelConfig
from torchstone.nn.costs import costs
from torchstone.nn.gpt import GPT, POSITIONS, GPTConfig
from torchstone.nn.mlp.activation import ACTIVATIONS
from torchstone.nn.naive import naive_logits
from torchstone.nn.norms import NORMS
from torchstone.nn.rotary import rotation

V, L = 37, 24
VARIANTS = {
    "gpt2": {},
    "rope": {"positions": "rope"},
    "rmsnorm": {"norm": "rmsnorm"},
    "untied": {"tie_word_embeddings": False},
    "narrow-mlp": {"d_ff": 20},
    "gelu": {"activation": "gelu"},
    "modern": {
        "norm": "rmsnorm",
        "norm_eps": 1e-3,
        "positions": "rope",
        "activation": "swiglu",
        "qk_norm": True,
        "bias": False,
        "vocab_multiple": 16,
    },
}


def tiny(**changes: object) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "max_seq_len": L, "d_model": 16, "num_layers": 2, "num_heads": 4}
    model = GPT(GPTConfig(**{**sizes, **changes})).eval()
    with torch.no_grad():  # off the initial values, so that every bias and norm weight counts
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=VARIANTS, ids=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> GPT:
    return tiny(**VARIANTS[request.param])


def test_equals_its_naive_twin_in_values_and_gradients(model: GPT) -> None:
    sequence = ids(9)
    fast = model(sequence[None]).logits[0]
    slow = naive_logits(model, sequence)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)

    parameters = dict(model.named_parameters())
    fast_gradients = torch.autograd.grad(fast.pow(2).mean(), list(parameters.values()))
    slow_gradients = torch.autograd.grad(slow.pow(2).mean(), list(parameters.values()))
    for name, one, other in zip(parameters, fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@torch.no_grad()
def test_never_looks_ahead(model: GPT) -> None:
    sequence = ids(2, L)
    before = model(sequence).logits
    for cut in (1, 7, 8, 16, L - 1):
        changed = sequence.clone()
        changed[:, cut:] = (changed[:, cut:] + 1) % V
        after = model(changed).logits
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.allclose(before[:, cut:], after[:, cut:])


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[L], [1] * L, [5, 1, 1, 10, L - 17], [L - 1, 1]])
def test_cached_decoding_equals_full_forward(model: GPT, pieces: list[int]) -> None:
    sequence = ids(2, L)
    full = model(sequence).logits
    cache, logits = None, []
    for piece in sequence.split(pieces, dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), full, atol=1e-5, rtol=1e-5)
    assert model(sequence).past_key_values is None


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cached", [False, True])
def test_padding_changes_nothing(model: GPT, side: str, cached: bool) -> None:
    real = ids(2, 10)
    alone = model(real).logits
    pads = ids(2, 4, seed=5)
    padded, mask = (
        (torch.cat([pads, real], 1), torch.cat([torch.zeros(2, 4), torch.ones(2, 10)], 1))
        if side == "left"
        else (torch.cat([real, pads], 1), torch.cat([torch.ones(2, 10), torch.zeros(2, 4)], 1))
    )
    mask = mask.long()
    if cached:
        first = model(padded[:, :6], attention_mask=mask[:, :6], use_cache=True)
        second = model(padded[:, 6:], attention_mask=mask, past_key_values=first.past_key_values)
        logits = torch.cat([first.logits, second.logits], 1)
    else:
        logits = model(padded, attention_mask=mask).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[mask.bool()].view(2, 10, V), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(real, attention_mask=torch.ones(2, 10)).logits, alone)


def test_no_query_is_left_without_a_key() -> None:
    # What a kernel makes of an empty row differs between devices; NaN is one of the answers.
    mask = causal_mask(3, 5, torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 0, 0]]), torch.device("cpu"))
    assert mask.any(dim=-1).all()
    assert mask[0, 0].tolist() == [[i == j for j in range(5)] for i in (2, 3, 4)]


@torch.no_grad()
def test_order_is_visible(model: GPT) -> None:
    sequence = ids(1, 10)
    swapped = sequence[:, [1, 0, *range(2, 10)]]
    assert not torch.allclose(model(sequence).logits[:, -1], model(swapped).logits[:, -1])


@torch.no_grad()
def test_explicit_positions_are_used(model: GPT) -> None:
    sequence = ids(1, 6)
    default = model(sequence).logits
    torch.testing.assert_close(model(sequence, position_ids=torch.arange(6)[None]).logits, default)
    spread = model(sequence, position_ids=2 * torch.arange(6)[None]).logits
    assert not torch.allclose(spread, default)


@torch.no_grad()
def test_rope_knows_distances_only() -> None:
    model, sequence = tiny(positions="rope"), ids(1, 6)
    moved = model(sequence, position_ids=torch.arange(11, 17)[None]).logits
    torch.testing.assert_close(moved, model(sequence).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_position_limit_is_exact_and_said(positions: str) -> None:
    model = tiny(positions=positions)
    assert model(ids(1, L)).logits.shape == (1, L, V)
    with pytest.raises(UsageError, match=rf"{L + 1} tokens is longer than max_seq_len={L}"):
        model(ids(1, L + 1))
    with pytest.raises(ValueError, match="max_seq_len"):  # what a stranger would catch
        model(ids(1, L + 1))
    cache = model(ids(1, L), use_cache=True).past_key_values
    with pytest.raises(UsageError, match="max_seq_len"):
        model(ids(1, 1), past_key_values=cache)


@torch.no_grad()
def test_the_vocabulary_is_exact() -> None:
    model = tiny()
    model(torch.tensor([[0, V - 1]]))
    with pytest.raises(IndexError):
        model(torch.tensor([[V]]))


def test_wrong_inputs_are_named() -> None:
    model = tiny()
    with pytest.raises(UsageError, match=r"attention_mask has shape \(1, 3\), expected \(1, 4\)"):
        model(ids(1, 4), attention_mask=torch.ones(1, 3))
    with pytest.raises(UsageError, match=r"input_ids has shape \(4,\)"):
        model(ids(4))


def test_initial_loss_is_that_of_guessing() -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=1000, max_seq_len=64, d_model=64, num_layers=4, num_heads=4))
    tokens = torch.randint(0, 1000, (8, 64))
    loss = F.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(1000)) < 0.1


def test_residual_projections_start_smaller_with_depth() -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=10, max_seq_len=8, d_model=128, num_layers=8, num_heads=4))
    for block in model.blocks:
        for layer in (block.attention.out, block.mlp.out):
            assert layer.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
            assert layer.bias.abs().max() == 0
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_parameter_count_is_the_formula(changes: dict[str, object]) -> None:
    model = tiny(**changes)
    assert sum(parameter.numel() for parameter in model.parameters()) == costs(model.config).parameters


def test_biases_and_norms_are_what_was_asked_for() -> None:
    plain, bare = tiny(), tiny(bias=False)
    biases = [name for name, _ in plain.named_parameters() if name.endswith("bias")]
    assert len(biases) == 2 * (4 + 2) + 1
    assert [name for name, _ in plain.named_parameters() if name not in biases] == [
        name for name, _ in bare.named_parameters()
    ]
    eps = {each.eps for each in tiny(norm_eps=0.5, qk_norm=True).modules() if hasattr(each, "eps")}
    assert eps == {0.5}


def test_queries_and_keys_are_normed_before_they_are_turned() -> None:
    model = tiny(qk_norm=True, positions="rope")
    layer = model.blocks[0].attention
    turn = rotation(torch.arange(9)[None], layer.head_width)
    for norm in (layer.query_norm, layer.key_norm):
        nn.init.ones_(norm.weight)
    q, k, v = layer.prepare(100 * torch.randn(1, 9, 16), AttentionContext(rotary=turn))
    for each in (q, k):
        torch.testing.assert_close(each.pow(2).mean(-1), torch.ones(1, 4, 9), atol=1e-4, rtol=0)
    assert v.pow(2).mean() > 10


@torch.no_grad()
def test_rows_beyond_the_vocabulary_are_never_spoken_nor_learned() -> None:
    model = tiny(vocab_multiple=16)
    assert model.token_embedding.weight.shape == model.head.weight.shape == (48, 16)
    assert model(ids(2, 9)).logits.shape == (2, 9, V)
    with torch.enable_grad():
        model(ids(2, 9)).logits.exp().sum().backward()
    assert not model.head.weight.grad[V:].any()
    assert model.head.weight.grad[:V].any(dim=1).all()
    model.head.weight[V:] = 100 * model.final_norm.bias  # what would be likeliest
    made = generate(adapt(model, config=asdict(model.config)), ids(3, 4), 12, temperature=3.0, seed=0)
    assert made.max() < V


def test_a_gated_mlp_has_the_parameters_of_a_plain_one() -> None:
    plain, gated = (GPTConfig(activation=name) for name in ("gelu", "swiglu"))
    assert gated.hidden_width == 2048
    assert abs(costs(gated).parameters / costs(plain).parameters - 1) < 1e-3
    assert GPTConfig(activation="swiglu", d_ff=100).hidden_width == 100


@torch.no_grad()
def test_autocast_agrees_with_full_precision() -> None:
    model, sequence = tiny(**VARIANTS["modern"]), ids(2, L)
    exact = model(sequence).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(sequence).logits
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_what_the_configuration_offers_is_what_there_is() -> None:
    knobs = knobs_of({"model": ModelConfig})
    for key, legal in (("norm", NORMS), ("positions", POSITIONS), ("activation", ACTIVATIONS)):
        assert knobs[f"model.{key}"].choices == legal


def test_dropout_acts_in_training_only() -> None:
    model, sequence = tiny(dropout=0.5), ids(1, 8)
    assert torch.equal(model(sequence).logits, model(sequence).logits)
    model.train()
    assert not torch.equal(model(sequence).logits, model(sequence).logits)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_close(model: GPT, dtype: torch.dtype) -> None:
    sequence = ids(2, L)
    exact = model(sequence).logits
    rough = model.to(dtype)(sequence).logits
    assert rough.dtype == dtype
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_learns_one_batch_by_heart() -> None:
    model, batch = tiny().train(), ids(2, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_model": 18}, "multiple of 4"),
        ({"d_model": 4, "positions": "rope"}, "even head width"),
        ({"positions": "alibi"}, "learned, rope"),
        ({"norm": "rmsnorn"}, "did you mean 'rmsnorm'"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"vocab_multiple": 0}, "vocab_multiple=0"),
        ({"norm_eps": 0.0}, "norm_eps=0.0"),
        ({"activation": "swigluu"}, "did you mean 'swiglu'"),
        ({"activation": "swiglu", "mlp": MLPConfig(name="r-mlp")}, "no second half"),
        ({"qk_norm": True, "attention": AttentionConfig(name="mla")}, "takes no norm on its queries"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny(**changes)
