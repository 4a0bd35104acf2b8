"""What is decided about Apple's GPU, which no machine of ours has: formats, copies, kernels, generators."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from torchstone._errors import ConfigError, EnvironmentProblem
from torchstone._seeds import restore_torch_rng, torch_rng_state
from torchstone.optim.adamw import has_fused
from torchstone.train.assembly import update_of
from torchstone.train.device import bring, way_to
from torchstone.train.memory import lacks_memory
from torchstone.train.precision import autocast_of, require_usable
from torchstone.train.update import HostUpdate, ScaledUpdate

MPS, CUDA, CPU = (torch.device(name) for name in ("mps", "cuda", "cpu"))


def test_a_batch_is_there_before_its_memory_is_given_back() -> None:
    assert not way_to(MPS, torch.long)["non_blocking"]
    assert way_to(CUDA, torch.long)["non_blocking"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.long, torch.bool])
def test_only_float64_changes_on_its_way(dtype: torch.dtype) -> None:
    assert "dtype" not in way_to(MPS, dtype)
    assert way_to(MPS, torch.float64)["dtype"] == torch.float32
    assert "dtype" not in way_to(CUDA, torch.float64)


def test_the_arguments_are_those_of_a_real_move() -> None:
    moved = torch.ones(2, dtype=torch.float64).to(**way_to(MPS, torch.float64) | {"device": CPU})
    assert moved.dtype == torch.float32


def test_a_float64_model_is_refused_by_the_name_of_its_first_tensor() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].running_mean = model[1].running_mean.double()
    with pytest.raises(EnvironmentProblem, match="float64") as refused:
        bring(model, MPS)
    assert refused.value.where == "1.running_mean"
    bring(model.double(), CPU)


def test_the_fused_kernel_of_mps_is_not_taken() -> None:
    assert [has_fused(device) for device in (CPU, CUDA, MPS)] == [True, True, False]


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", HostUpdate), ("bf16", HostUpdate), ("fp16", ScaledUpdate)]
)
def test_the_host_decides_about_updates(precision: str, kind: type) -> None:
    module = nn.Linear(1, 1)
    config: Any = SimpleNamespace(
        train=SimpleNamespace(precision=precision, on_nonfinite="stop"),
        optim=SimpleNamespace(max_grad_norm=1.0),
    )
    subject: Any = SimpleNamespace(module=module, device=MPS)
    assert type(update_of(subject, config, torch.optim.AdamW(module.parameters()))) is kind


@pytest.mark.parametrize("new_enough", [True, False])
def test_bf16_needs_macos_14(new_enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        torch.backends.mps, "is_macos_or_newer", lambda *version: asked.append(version) or new_enough
    )
    for precision in ("fp32", "fp16"):
        require_usable(precision, MPS)
    if new_enough:
        require_usable("bf16", MPS)
    else:
        with pytest.raises(ConfigError, match="bf16 cannot be used"):
            require_usable("bf16", MPS)
    assert asked == [(14, 0)]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_of_mps_has_the_format_that_was_asked_for(precision: str, dtype: torch.dtype) -> None:
    with autocast_of(precision, MPS)():
        assert torch.is_autocast_enabled("mps")
        assert torch.get_autocast_dtype("mps") == dtype


def test_a_bad_step_is_looked_into_with_the_generator_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.Generator().manual_seed(3)  # stands for the one on the GPU
    monkeypatch.setattr(torch.mps, "get_rng_state", device.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", device.set_state)
    state = torch_rng_state(MPS)
    drawn = torch.rand(3, generator=device)
    restore_torch_rng(state, CPU)  # a replay on the CPU leaves it alone
    assert not torch.equal(torch.rand(3, generator=device), drawn)
    restore_torch_rng(state, MPS)
    assert torch.equal(torch.rand(3, generator=device), drawn)


def test_its_allocator_says_in_words_that_memory_is_short() -> None:
    assert lacks_memory(
        RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB, max allowed: 18.13 GB)")
    )
    assert not lacks_memory(RuntimeError("shape mismatch"))
