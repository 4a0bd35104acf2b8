"""One small bundle, made once for all workers and for tests/web too: the exporters take seconds."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchstone.adapt.load import LoadedModel, load
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.export.bundle import Bundle, export
from torchstone.export.formats import chosen
from torchstone.export.source import Source
from torchstone.web.serving.container import beside

EVERY = "safetensors,pt2,onnx,onnx-int8,torchserve"
"""`pt2-int8` and `torchscript` take as long as all of these: `Plain` goes through them."""
SIZES = {"d_model": 32, "num_layers": 1, "num_heads": 2, "max_seq_len": 40, "vocab_size": 300}


def tiny_model() -> LoadedModel:
    return load("zoo:gpt-nano", overrides=SIZES)


class Plain(nn.Module):
    """As little as has an embedding, a linear layer and free axes: half a second in a tracer."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(300, 16)
        self.final_norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 300)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.final_norm(self.token_embedding(input_ids)))


def plain(module: nn.Module | None = None) -> Source:
    torch.manual_seed(0)
    return Source(load(module or Plain(), task="causal-lm"), ByteTokenizer())


@pytest.fixture
def source() -> Source:
    return Source(tiny_model(), ByteTokenizer())


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Bundle]) -> Path:
    """What `make` writes, made by the first worker that comes and shared by all."""
    base = factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            made = make(folder)
            assert made.verdict == "pass", made.health.failed
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle itself: tests that write take `bundle`, a copy."""

    def make(folder: Path) -> Bundle:
        return export(Source(tiny_model(), ByteTokenizer()), folder, chosen(EVERY), beside=beside)

    return once(tmp_path_factory, "bundle", make)


@pytest.fixture
def bundle(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "bundle"))
