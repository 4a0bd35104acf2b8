"""The form of the band for a GPU: the same function as the pieces of a CPU, and chosen by device alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone.nn.attention import flex, fused
from torchstone.nn.attention.context import AttentionContext, causal_mask
from torchstone.nn.attention.scores import Scores


def parts(T: int, device: str = "cpu") -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    widths = (4, 4, 6, 6, 5)
    return tuple(torch.randn(2, 3, T, width, device=device, requires_grad=True) for width in widths)


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], atol: float = 1e-5) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


def values_and_gradients(out: Tensor, of: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (out, *torch.autograd.grad(out.pow(2).sum(), of))


@pytest.fixture
def kernel_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own form for a CPU, without compiling what it is made of."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


uncompiled = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@uncompiled
@pytest.mark.usefixtures("kernel_written_out")
@torch.no_grad()
def test_near_and_far_together_are_the_band() -> None:
    q, k, q_extra, k_extra, v = (each.detach() for each in parts(140))  # more than one block of the mask
    found = flex.attend_in_band(q, k, q_extra, k_extra, v, scale=0.7, window=20)
    wanted = Scores(q, k, 0.7, q_extra, k_extra, 20).attend(v, AttentionContext())
    close((found,), (wanted,))


def written_out(
    q: Tensor, k: Tensor, v: Tensor, scale: float, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """What the kernel gives, by definition: it has no gradient on a CPU."""
    places = torch.arange(q.shape[2])
    back = places[:, None] - places
    seen = (back >= first) & (back <= last)
    some = seen.any(dim=1)
    scores = (scale * q @ k.transpose(-1, -2)).masked_fill(~seen, float("-inf"))
    log_sum = torch.where(some, torch.where(some[:, None], scores, 0.0).logsumexp(dim=-1), float("-inf"))
    weights = torch.where(some[:, None], scores, float("-inf")) - torch.where(some, log_sum, 0.0)[..., None]
    return weights.exp() @ v, log_sum


@pytest.mark.parametrize("window", [0, 3])
def test_its_gradients_are_those_of_the_band(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_attend", written_out)
    own = q, k, q_extra, k_extra, v = parts(11)
    found = flex.attend_in_band(*own, scale=0.7, window=window)
    wanted = Scores(q, k, 0.7, q_extra, k_extra, window).attend(v, AttentionContext())
    close(values_and_gradients(found, own), values_and_gradients(wanted, own))


@uncompiled
@pytest.mark.usefixtures("kernel_written_out")
@torch.no_grad()
def test_the_kernel_is_the_definition() -> None:
    q, k, _, _, v = (each.detach() for each in parts(11))
    for first, last in ((0, 3), (4, 11)):
        close(flex._attend(q, k, v, 0.7, first, last), written_out(q, k, v, 0.7, first, last))
    out, log_sum = flex.attend_with_log_sum(q, k, v, 0.7)
    close((out,), (fused.attend(q, k, v, AttentionContext(), scale=0.7),))
    close((log_sum,), (fused.log_sums(q, k, AttentionContext(), 0.7),))


def test_the_device_chooses() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert flex.fits(gpu, AttentionContext(), 0.0)
    assert not flex.fits(cpu, AttentionContext(), 0.0)
    assert not flex.fits(gpu, AttentionContext(), 0.1)
    assert not flex.fits(gpu, AttentionContext(is_causal=False), 0.0)
    assert not flex.fits(gpu, AttentionContext(mask=causal_mask(3, 3, None, cpu)), 0.0)


def test_what_is_chosen_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, q_extra, k_extra, v = parts(11)
    band, context = Scores(q, k, 0.7, q_extra, k_extra, 3), AttentionContext()
    plain = band.attend(v, context), fused.attend_with_log_sum(q, k, k, context, scale=0.7)[1]
    called: list[tuple[int, int]] = []

    def kernel(*given: Any) -> tuple[Tensor, Tensor]:
        called.append(given[4:])
        return written_out(*given)

    monkeypatch.setattr(flex, "_attend", kernel)
    assert not called
    monkeypatch.setattr(flex, "fits", lambda device, context, dropout: True)
    chosen = band.attend(v, context), fused.attend_with_log_sum(q, k, k, context, scale=0.7)[1]
    assert called == [(0, 3), (4, 11), (0, 11)]
    close(chosen, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, which the compiled kernel needs")
def test_the_compiled_kernel_is_the_same_function() -> None:
    torch.manual_seed(0)
    own = tuple(torch.randn(1, 2, 300, 64, device="cuda", requires_grad=True) for _ in range(5))
    q, k, q_extra, k_extra, v = own
    found = Scores(q, k, 0.1, q_extra, k_extra, 64).attend(v, AttentionContext())
    cpu = tuple(each.detach().cpu().requires_grad_() for each in own)
    wanted = Scores(cpu[0], cpu[1], 0.1, cpu[2], cpu[3], 64).attend(cpu[4], AttentionContext())
    moved = tuple(each.cpu() for each in values_and_gradients(found, own))
    close(moved, values_and_gradients(wanted, cpu), atol=2e-2)
