"""One small bundle with every usual format, made once for all workers: the ONNX exporter takes seconds."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

from torchstone.adapt.load import LoadedModel, load
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.export.bundle import export
from torchstone.export.formats import chosen
from torchstone.export.source import Source

SIZES = {"d_model": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 40, "vocab_size": 300}


def tiny_model() -> LoadedModel:
    return load("zoo:gpt-nano", overrides=SIZES)


@pytest.fixture
def source() -> Source:
    return Source(tiny_model(), ByteTokenizer())


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle itself: tests that write take `bundle`, a copy."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    folder = shared / "bundle"
    with (shared / "bundle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            export(Source(tiny_model(), ByteTokenizer()), folder, chosen("safetensors,pt2,onnx"))
    return folder


@pytest.fixture
def bundle(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "bundle"))
