"""Bundles of every task, by their own programs and over HTTP: classes, answers of pairs, pictures.

Weights of transformers are run by the library itself, so none of these waits for an exporter.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from PIL import Image
from web.conftest import Held, serving, until
from zoo.library import LIBRARY

from torchstone.adapt.load import LoadedModel, load
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.export.bundle import export
from torchstone.export.formats import chosen
from torchstone.export.source import Source
from torchstone.export.standalone import inference

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}


def classifier() -> LoadedModel:
    from transformers import BertConfig, BertForSequenceClassification

    names = {0: "no", 1: "perhaps", 2: "yes"}
    return load(BertForSequenceClassification(BertConfig(**SIZES, id2label=names)), task="classification")


def pair() -> LoadedModel:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=257,
    )  # fmt: skip
    return load(T5ForConditionalGeneration(config), task="seq2seq")


def pictures() -> LoadedModel:
    record = next(each for each in LIBRARY if each.name == "vit")
    return load(record.build(), task=record.task)


def bundle_of(model: LoadedModel, place: Path) -> Path:
    words = ByteTokenizer() if model.task.is_text else None
    return export(Source(model, words), place / "bundle", chosen("safetensors")).path


def typed(capsys: pytest.CaptureFixture[str], bundle: Path, *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert inference.main(["--bundle", str(bundle), "--format", "torch", "--json", *arguments]) == 0
    return list(json.loads(capsys.readouterr().out)["results"])


def test_classes_alone_and_in_company(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = classifier()
    bundle = bundle_of(model, tmp_path)
    texts = ["a", "naïve 你", "a longer text, with padding beside it"]
    found = [typed(capsys, bundle, "--input", each)[0] for each in texts]
    for text, each in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([ByteTokenizer().encode(text)])).logits[0]
        assert np.allclose(each["probabilities"], logits.softmax(0).numpy(), atol=1e-6)
        assert each["label"] == ("no", "perhaps", "yes")[int(logits.argmax())]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    together = typed(capsys, bundle, "--input", str(tmp_path / "texts.txt"), "--lines", "--batch", "3")
    held = Held(bundle, "torch")
    with serving(held, batch_window_ms=1000, max_batch=3) as it:
        held.sizes.clear()
        with it.client.together([("/v1/predict", {"inputs": each}) for each in texts]) as answers:
            until(lambda: held.sizes)
        refused = it.client("POST", "/v1/completions", {"prompt": "a"})
        idle = it.client("POST", "/v1/predict", {"inputs": "a", "top_k": 3})
    assert held.sizes[0] == 3, "three requests, one pass"
    served = [each.json["results"][0] for each in answers]
    for alone, beside, over_http in zip(found, together, served, strict=True):
        for each in (beside, over_http):
            assert each["label"] == alone["label"]
            assert np.allclose(each["probabilities"], alone["probabilities"], atol=1e-6)
    assert (refused.status, "POST /v1/predict" in refused.json["error"]["message"]) == (422, True)
    assert (idle.status, idle.json["error"]["message"].startswith("top_k has no effect")) == (422, True)


def test_a_pair_answers_as_the_library_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = pair()
    bundle = bundle_of(model, tmp_path)
    (found,) = typed(capsys, bundle, "--input", "Once", "--max-new-tokens", "6", "--temperature", "0")
    ids = torch.tensor([ByteTokenizer().encode("Once")])
    wanted = model.module.generate(ids, max_new_tokens=6, do_sample=False, suppress_tokens=[258, 299])
    assert found["ids"] == wanted[0, 1:].tolist()
    with serving(Held(bundle, "torch")) as it:
        asked = {"prompt": "Once", "max_tokens": 6, "temperature": 0}
        assert it.client("POST", "/v1/completions", asked).json["choices"][0]["token_ids"] == found["ids"]


def test_pictures_by_folder_and_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = pictures()
    bundle = bundle_of(model, tmp_path)
    (tmp_path / "in").mkdir()
    for name, colour in (("a.png", (255, 0, 128)), ("b.png", (0, 40, 0))):
        Image.new("RGB", (40, 30), colour).save(tmp_path / "in" / name)
    found = typed(capsys, bundle, "--input", str(tmp_path / "in"), "--batch", "2")
    assert [Path(each["input"]).name for each in found] == ["a.png", "b.png"]
    sent = [base64.b64encode((tmp_path / "in" / name).read_bytes()).decode() for name in ("a.png", "b.png")]
    with serving(Held(bundle, "torch")) as it:
        answer = it.client("POST", "/v1/predict", {"inputs": [sent[0], f"data:image/png;base64,{sent[1]}"]})
        assert answer.status == 200, answer.body
        for alone, each in zip(found, answer.json["results"], strict=True):
            assert np.allclose(each["probabilities"], alone["probabilities"], atol=1e-6)
        for wrong in ("no picture", sent[0][:40], [1, 2]):
            refused = it.client("POST", "/v1/predict", {"inputs": [wrong]})
            assert (refused.status, "picture" in refused.json["error"]["message"]) == (422, True)


@pytest.mark.parametrize("make", [classifier, pictures])
def test_the_bill_of_materials_is_cyclonedx(tmp_path: Path, make: Callable[[], LoadedModel]) -> None:
    bill = (bundle_of(make(), tmp_path) / "sbom.cdx.json").read_text()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(bill) is None
    broken = json.loads(bill) | {"components": [{"type": "nothing"}]}
    assert validator.validate_str(json.dumps(broken)) is not None, "the validator can refuse"
