"""The chunked loss equals the plain one, forwards and backwards, and needs less memory at its peak."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import torchstone as ts
from torchstone._errors import ConfigError
from torchstone.adapt.adapter import adapt
from torchstone.train.chunked_loss import CHUNK_BYTES, WORTH_BYTES, chunk_of, head_loss, logits_loss
from torchstone.train.losses import LOSSES, SpecialIds
from torchstone.train.objective import ModelObjective
from torchstone.train.split_head import choose_split

IGNORED = -100


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def problem(
    num_tokens: int, width: int, vocab_size: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets = torch.randint(vocab_size, (num_tokens,), generator=generator)
    targets[torch.rand(num_tokens, generator=generator) < 0.2] = IGNORED
    return draw(num_tokens, width), draw(vocab_size, width), draw(vocab_size), targets


@settings(max_examples=30, deadline=None)
@given(
    num_tokens=st.integers(1, 20),
    chunk=st.integers(1, 24),
    has_bias=st.booleans(),
    seed=st.integers(0, 99),
    scale=st.floats(0.1, 3.0),
)
def test_equals_the_plain_loss_for_any_chunk(
    num_tokens: int, chunk: int, has_bias: bool, seed: int, scale: float
) -> None:
    hidden, weight, bias, targets = problem(num_tokens, 5, 11, seed=seed)
    leaves = [hidden, weight, *([bias] if has_bias else [])]
    offset = bias if has_bias else None
    expected = plain(hidden, weight, offset, targets)
    gradients = torch.autograd.grad(expected * scale, leaves)
    loss, correct = head_loss(hidden, weight, offset, targets, chunk)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    for mine, theirs in zip(torch.autograd.grad(loss * scale, leaves), gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    logits = F.linear(hidden, weight, offset)
    assert correct.item() == (logits.argmax(-1) == targets).sum().item()
    given_loss, given_correct = logits_loss(logits, targets, chunk)
    assert given_loss.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    assert torch.equal(given_correct, correct)
    for mine, theirs in zip(torch.autograd.grad(given_loss * scale, leaves), gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_the_precision_of_a_run(dtype: torch.dtype) -> None:
    """float32 to 1e-5; under autocast as close as 16-bit logits allow, with the loss itself in float32."""
    hidden, weight, bias, targets = problem(50, 16, 97, dtype=torch.float32)
    leaves, tolerance = [hidden, weight, bias], 1e-5 if dtype == torch.float32 else 2e-2
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = plain(hidden, weight, bias, targets)
        loss, _ = head_loss(hidden, weight, bias, targets, 7)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert float((mine - theirs).norm() / theirs.norm()) < tolerance


def test_a_tied_head_gets_both_of_its_gradients() -> None:
    table = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    ids, targets = torch.randint(11, (9,)), torch.randint(11, (9,))
    expected = torch.autograd.grad(plain(F.embedding(ids, table), table, None, targets), table)[0]
    loss, _ = head_loss(F.embedding(ids, table), table, None, targets, 4)
    assert torch.allclose(torch.autograd.grad(loss, table)[0], expected, rtol=1e-10, atol=1e-12)


def test_frozen_parts_get_no_gradient_and_a_second_backward_is_refused() -> None:
    hidden, weight, bias, targets = problem(6, 4, 7)
    loss, _ = head_loss(hidden, weight.detach(), bias, targets, 4)
    loss.backward(retain_graph=True)
    assert hidden.grad is not None and bias.grad is not None
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()
    with torch.no_grad():
        assert not head_loss(hidden, weight, bias, targets, 4)[0].requires_grad


def test_nothing_that_counts_is_zero() -> None:
    hidden, weight, bias, _ = problem(3, 4, 7)
    loss, correct = head_loss(hidden, weight, bias, torch.full((3,), IGNORED), 2)
    assert (loss.item(), correct.item()) == (0.0, 0)
    assert float(torch.autograd.grad(loss, weight)[0].abs().sum()) == 0.0


def test_zero_cuts_what_is_worth_it() -> None:
    assert chunk_of(None, 1 << 20, 50_000) is None
    assert chunk_of(300, 10, 10) == 300
    assert chunk_of(0, WORTH_BYTES // 4 // 1000, 1000) is None
    chunk = chunk_of(0, WORTH_BYTES // 4 // 1000 + 1, 1000)
    assert chunk is not None and chunk * 4 * 1000 <= CHUNK_BYTES < (chunk + 1) * 4 * 1000
    assert chunk_of(0, 1 << 20, 1 << 30) == 1


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most memory that torch's allocator held at a time, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    level = peak = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


@pytest.mark.parametrize("way", ["hidden", "logits"])
def test_the_peak_is_lower_by_the_logits(way: str) -> None:
    """N=2048, V=4096, C=32: float32 logits take 32 MiB. The plain loss holds three such tensors."""
    hidden, weight, bias, targets = problem(2048, 32, 4096, dtype=torch.float32)
    logits_bytes = 4 * 2048 * 4096

    def whole() -> None:
        torch.autograd.grad(plain(hidden, weight, bias, targets), [hidden, weight, bias])

    def chunked() -> None:
        if way == "hidden":
            loss, _ = head_loss(hidden, weight, bias, targets, 128)
        else:
            loss, _ = logits_loss(F.linear(hidden, weight, bias), targets, 128)
        torch.autograd.grad(loss, [hidden, weight, bias])

    chunked()  # nothing is allocated for the first time while we count
    before, after = peak_bytes(whole), peak_bytes(chunked)
    assert before > 2.9 * logits_bytes
    assert after < (0.3 if way == "hidden" else 2.2) * logits_bytes


class Odd(nn.Module):
    """A model that may do something to its logits, or take them apart."""

    def __init__(self, what: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(13, 6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 13)
        self.what = what

    def forward(self, input_ids: Tensor) -> Tensor:
        logits = self.head(self.drop(self.embed(input_ids).cumsum(1)))
        if self.what == "capped":
            return 2.0 * torch.tanh(logits / 2.0)
        return logits.view(*input_ids.shape, 13) if self.what == "viewed" else logits


def prepared_for(module: nn.Module) -> tuple[ModelObjective, Any]:
    objective = ModelObjective(adapt(module), LOSSES.get("causal-lm"), num_outputs=13)
    ids = torch.randint(13, (3, 5), generator=torch.Generator().manual_seed(1))
    return objective, objective.prepare({"input_ids": ids, "labels": ids})


@pytest.mark.parametrize(
    ("what", "has_head", "told"),
    [("", True, ""), ("capped", False, "changes its logits"), ("viewed", False, "needs its logits")],
)
def test_a_head_is_left_out_only_where_that_is_the_same(what: str, has_head: bool, told: str) -> None:
    module = Odd(what)
    objective, batch = prepared_for(module)
    state, torch_state = module.state_dict(), torch.get_rng_state()
    split, why = choose_split(module, objective, batch, 4, contextlib.nullcontext)
    assert (split.head is module.head) == has_head and told in why and bool(why) == bool(told)
    assert torch.equal(torch_state, torch.get_rng_state()) and module.training and module.drop.training
    assert objective.split is None and "forward" not in vars(module.head)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in state.items())

    def loss_and_gradients() -> list[Tensor]:
        torch.manual_seed(5)
        loss = objective.loss_sum(batch)
        return [loss.detach(), *torch.autograd.grad(loss, list(module.parameters()))]

    expected = loss_and_gradients()
    objective.split = split
    for mine, theirs in zip(loss_and_gradients(), expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        chunked, objective.split = objective.measure(batch), None
        torch.manual_seed(5)
    assert set(chunked) == {"loss", "accuracy"}


@pytest.mark.parametrize("kind", ["gpt2", "zoo", "padded", "t5"])
def test_real_models_with_tied_heads(kind: str) -> None:
    if kind in ("zoo", "padded"):
        sizes = {"vocab_size": 40, "num_layers": 1, "d_model": 32}
        sizes |= {"vocab_multiple": 64} if kind == "padded" else {}
        module, task = ts.load("zoo:gpt-nano", overrides=sizes).module, "causal-lm"
    else:
        hf = pytest.importorskip("transformers", reason="needs the extra [hf]")
        sizes = {"vocab_size": 40, "d_model": 8, "d_ff": 16, "d_kv": 4, "num_layers": 1, "num_heads": 2}
        module = (
            hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=16))
            if kind == "gpt2"
            else hf.T5ForConditionalGeneration(hf.T5Config(**sizes, decoder_start_token_id=0))
        ).eval()
        task = "causal-lm" if kind == "gpt2" else "seq2seq"
    module.eval()
    special = SpecialIds(vocab_size=40, decoder_start=0, pad=0)
    objective = ModelObjective(adapt(module, task=task), LOSSES.get(task), special, num_outputs=40)
    ids = torch.randint(1, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = objective.prepare({"input_ids": ids, "labels": ids.masked_fill(ids % 7 == 0, IGNORED)})
    whole = objective.measure(batch)
    expected = torch.autograd.grad(whole["loss"], list(module.parameters()))
    objective.split, why = choose_split(module, objective, batch, 4, contextlib.nullcontext)
    assert why == "" and objective.split.head is not None
    cut = objective.measure(batch)
    assert cut["loss"].item() == pytest.approx(whole["loss"].item(), rel=1e-5)
    assert cut["accuracy"].item() == whole["accuracy"].item()
    for mine, theirs in zip(
        torch.autograd.grad(cut["loss"], list(module.parameters())), expected, strict=True
    ):
        assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm()) + 1e-7


def test_a_run_in_chunks_is_the_run_in_one_piece(tmp_path: Path) -> None:
    rows = [torch.arange(start, start + 9) % 13 for start in range(8)]

    def train(name: str, module: nn.Module, **changes: Any) -> Any:
        config = ts.TrainingConfig(
            learning_rate=0.05, epochs=2, checkpoint_dir=str(tmp_path / name), dashboard=False, **changes
        )
        return ts.Trainer(module, config, task="causal-lm", device="cpu").train(rows, rows)

    whole, cut = train("whole", Odd()), train("cut", Odd(), loss_chunk=5)
    assert cut["val_loss_history"] == pytest.approx(whole["val_loss_history"], rel=1e-5)
    assert [row["val/accuracy"] for row in cut.epochs] == [row["val/accuracy"] for row in whole.epochs]
    assert not any("chunks" in each for each in cut.warnings)
    capped = train("capped", Odd("capped"), loss_chunk=5)
    assert any("changes its logits" in each for each in capped.warnings)
    images = [(torch.zeros(3, 4, 4), 1)] * 4
    with pytest.raises(ConfigError, match="loss_chunk has no effect on the task vision"):
        config = ts.TrainingConfig(checkpoint_dir=str(tmp_path / "images"), loss_chunk=5)
        module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        ts.Trainer(module, config, task=ts.TaskSpec.vision(2, 4), device="cpu").train(images)
    assert not (tmp_path / "images").exists()
