"""Models that must come through whole: every task, our zoo, a builder's export, library architectures.

    pytest -m campaign tests/export/test_architectures.py       # docs/export.md says what was run

Without the marker one of each kind that is cheap is exported, as `.pt2`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from export.conftest import Plain, plain
from torch import Tensor, nn
from zoo.library import LIBRARY

from torchstone._errors import ModelError
from torchstone.adapt.load import LoadedModel, load
from torchstone.export.bundle import Bundle, export
from torchstone.export.formats import chosen
from torchstone.export.program import example
from torchstone.export.source import Source
from torchstone.export.verify import verify_bundle

HERE = Path(__file__).parents[2]
OWN = ("zoo:gpt-nano", "zoo:lenet5", "zoo:resnet18", "zoo:vit-tiny", "examples/builder_export")
THEIRS = (
    *("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt-neox", "opt", "bloom", "phi", "olmo2"),
    *("bert-mlm", "bert", "bert-cls", "bert-token-cls", "roberta-mlm", "distilbert", "electra", "albert"),
    *("gpt2-cls", "t5", "bart", "marian", "vit", "deit", "dinov2", "torch-encoder", "torch-transformer"),
)
CACHED = ("zoo:gpt-nano", "gpt2", "llama", "qwen2")


def model(name: str) -> LoadedModel:
    if name in OWN:
        return load(name if name.startswith("zoo:") else str(HERE / name))
    record = next(each for each in LIBRARY if each.name == name)
    return load(record.build(), task=record.task)


def told(made: Bundle) -> list[str]:
    return [f"{each.name}: {each.what}: {each.why}" for each in made.formats if each.status == "fail"]


def note(name: str, made: Bundle) -> None:
    """A line per model for the table, where `EXPORT_TABLE` names a file."""
    if path := os.environ.get("EXPORT_TABLE"):
        row = {each.name: each.proof.get("max_abs") for each in made.formats}
        with Path(path).open("a") as file:
            file.write(json.dumps({"model": name, "task": made.manifest["model"]["task"], **row}) + "\n")


def test_the_campaign_is_wide_enough() -> None:
    assert len(OWN) + len(THEIRS) >= 25
    assert len([each for each in THEIRS if not each.startswith("torch-")]) >= 15
    assert set(THEIRS) <= {each.name for each in LIBRARY}


class Fast(Plain):
    """Takes the length of the first input that it sees for the only one."""

    def forward(self, input_ids: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return super().forward(input_ids.reshape(-1, 7))
        return super().forward(input_ids)


def test_a_graph_that_holds_a_length_fast_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no format could be exported") as refused:
        export(plain(Fast()), tmp_path / "out", chosen("pt2"))
    assert "sequence" in refused.value.why
    assert not (tmp_path / "out").exists()


class Pair(Plain):
    """The target looks at the source, and each has its length."""

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        source, target = self.token_embedding(input_ids), self.token_embedding(decoder_input_ids)
        seen = nn.functional.scaled_dot_product_attention(target, source, source)
        return self.head(self.final_norm(target + seen))


def test_source_and_target_of_a_pair_have_lengths_of_their_own() -> None:
    """A trace that took the stride of a cut row for a length refused every pair of the library."""
    source = Source(load(Pair(), task="seq2seq"))
    program = source.program
    assert [each.axes[1] for each in source.interface.inputs] == ["sequence", "target_sequence"]
    with torch.no_grad():
        for rows, asked, target in ((1, 9, 9), (3, 4, 11), (2, 11, 1)):
            batch = example(source.adapter, rows, asked, target, seed=3)
            tensors = [batch[name] for name in source.interface.names]
            assert torch.allclose(program.module()(*tensors), source.traceable(*tensors), atol=1e-5)


@pytest.mark.campaign
@pytest.mark.parametrize("name", [*OWN, *THEIRS])
def test_a_good_model_goes_through_in_every_format(tmp_path: Path, name: str) -> None:
    made = export(Source(model(name)), tmp_path / "out", chosen("safetensors,pt2,onnx"))
    note(name, made)
    assert not told(made)
    assert verify_bundle(tmp_path / "out")["verdict"] == "pass"


@pytest.mark.campaign
@pytest.mark.parametrize("name", CACHED)
def test_decoding_with_the_cache_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    made = export(Source(model(name)), tmp_path / "out", chosen("pt2-cache,onnx-cache"))
    note(f"{name} with its cache", made)
    assert not told(made)
