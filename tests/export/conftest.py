"""One small bundle with every format, made once for all workers: the exporters take seconds."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from torchstone.adapt.load import LoadedModel, load
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.export.bundle import Bundle, export
from torchstone.export.formats import chosen
from torchstone.export.source import Source

EVERY = "safetensors,pt2,onnx,int8,torchscript,torchserve"
SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 2, "max_seq_len": 40, "vocab_size": 300}


def tiny_model() -> LoadedModel:
    return load("zoo:gpt-nano", overrides=SIZES)


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
        return export(Source(tiny_model(), ByteTokenizer()), folder, chosen(EVERY))

    return once(tmp_path_factory, "bundle", make)


@pytest.fixture
def bundle(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "bundle"))
