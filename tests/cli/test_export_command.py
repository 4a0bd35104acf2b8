"""`torchstone export` and `torchstone verify BUNDLE` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file
from zoo.documented import schema

from torchstone import _optional
from torchstone._errors import MissingExtra

Typed = Callable[..., Any]
pytestmark = pytest.mark.timeout(400)  # whoever comes first waits for torch.export


def test_a_run_is_exported_with_its_words_and_verified(torchstone: Typed, run: Path) -> None:
    answer = torchstone("export", run, "--formats", "safetensors,pt2", "--archive", "tar.zst", "--json")
    assert answer.code == 0, answer.err
    jsonschema.validate(answer.object, schema("torchstone.export/1"))
    bundle = run / "bundle"
    assert answer.object["path"] == str(bundle)
    assert json.loads((bundle / "resolved_config.json").read_text()) == json.loads(
        (run / "config.json").read_text()
    )
    assert (bundle / "training_environment.json").read_bytes() == (run / "environment.json").read_bytes()
    assert {"tokenizer.json", "generation_config.json", "sbom.cdx.json"} <= set(answer.object["files"])
    again = torchstone("verify", bundle, "--json")
    jsonschema.validate(again.object, schema("torchstone.verify-bundle/1"))
    assert (again.code, again.object["verdict"]) == (0, "pass")
    only = torchstone("verify", bundle, "--format", "safetensors", "--json").object
    assert [each["name"] for each in only["formats"]] == ["safetensors"]
    assert answer.object["archive"] == str(run / "bundle.tar.zst")
    packed = torchstone("verify", run / "bundle.tar.zst", "--json")
    assert (packed.code, packed.object["verdict"]) == (0, "pass")
    (bundle / "config.json").write_text("{}")
    answer = torchstone("verify", bundle)
    assert answer.code == 1
    assert "config.json has 2 bytes instead of" in answer.out


def test_a_pruned_run_is_exported_without_its_heads_of_zeros(torchstone: Typed, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="extra [prune] is not installed")
    (tmp_path / "text.txt").write_text("a cat sat on a mat.\n" * 200)
    settings = {
        "model.d_model": 16, "model.num_layers": 1, "model.num_heads": 4, "model.max_seq_len": 32,
        "data.tokenizer": "bytes", "tracking.dashboard": "n",
        "prune.method": "magnitude", "prune.pattern": "heads", "prune.start": 0, "prune.every": 1,
    }  # fmt: skip
    said = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    trained = torchstone(
        "train", "zoo:gpt-nano", "--data", "text.txt", "--max-steps", 3, "--run-dir", "run", "-q", *said
    )
    assert trained.code == 0, trained.err
    dense = torchstone("export", "run", "--formats", "safetensors", "--out", "dense", "-q")
    assert dense.code == 0, dense.err
    qkv = load_file(tmp_path / "dense" / "model.safetensors")["blocks.0.attention.qkv.weight"]
    assert qkv.shape == (3 * 16, 16) and (qkv == 0).all(dim=1).sum() == 3 * 8, "dense, with zeros"
    answer = torchstone("export", "run", "--shrink", "--formats", "pt2", "--out", "small", "--json")
    assert answer.code == 0, answer.err
    assert any("2 heads and channels of zeros are left out" in note for note in answer.object["notes"])
    weights = torch.export.load(tmp_path / "small" / "model.pt2").state_dict
    assert [each.shape for name, each in weights.items() if name.endswith("qkv.weight")] == [(3 * 8, 16)]
    again = torchstone("verify", "small", "--json")
    assert (again.code, again.object["verdict"]) == (0, "pass")
    refused = torchstone("export", "run", "--shrink", "--out", "other")
    assert refused.code == 2 and "--shrink --formats pt2,onnx" in refused.err


def test_a_dry_run_writes_nothing(torchstone: Typed, tmp_path: Path) -> None:
    answer = torchstone("export", "zoo:gpt-nano", "--out", "out", "--dry-run", "--json")
    jsonschema.validate(answer.object, schema("torchstone.export-plan/1"))
    assert answer.object["inputs"][0] == {
        "name": "input_ids",
        "dtype": "int64",
        "axes": ["batch", "sequence"],
    }
    assert [*tmp_path.iterdir()] == []


def test_what_is_wrong_is_told_before_anything_is_loaded(torchstone: Typed, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for arguments, code, said in (
        (["zoo:gpt-nano", "--formats", "onxn"], 2, "did you mean 'onnx'"),
        (["zoo:gpt-nano", "--formats", ","], 2, "no format is named"),
        (["zoo:gpt-nano", "--out", "full"], 2, "is no bundle"),
        (["zoo:gpt-nano", "--archive", "rar"], 2, "end it in"),
        (["gist:0123456789abcdef0123"], 3, "stranger"),
    ):
        answer = torchstone("export", *arguments)
        assert (answer.code, said in answer.err) == (code, True), answer.err


def test_a_missing_exporter_tells_what_to_install(torchstone: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(module: str, extra: str) -> Any:
        raise MissingExtra(f"{module} is not installed", next=f"pip install 'torchstone[{extra}]'")

    monkeypatch.setattr(_optional, "require", without)
    answer = torchstone("export", "zoo:gpt-nano", "--formats", "onnx")
    assert answer.code == 5
    assert "pip install 'torchstone[onnx]'" in answer.err
