"""`inference.py` as it lies in a bundle: the same text as the house's own generator, and honest refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export.conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from torchstone.adapt.generate import Sampling as HouseSampling
from torchstone.adapt.generate import choose as house_choose
from torchstone.adapt.generate import generate
from torchstone.export.standalone import inference
from torchstone.export.standalone.inference import Predictor, Sampling, Wrong, choose

pytestmark = pytest.mark.timeout(400)  # whoever comes first waits for the exporters


@pytest.fixture(scope="module")
def predictor(made_once: Path) -> Predictor:
    return Predictor(made_once, "onnx")


def test_it_makes_the_same_text_as_the_house(predictor: Predictor) -> None:
    """Greedy, past the longest sequence, prompts of unequal length together."""
    rows = [[5, 6, 7], [9], list(range(30))]
    made = predictor.generate(rows, Sampling(max_new_tokens=15, temperature=0))
    adapter = tiny_model().adapter
    for row, each in zip(rows, made, strict=True):
        wanted = generate(adapter, torch.tensor([row]), 15, temperature=0, num_ids=258, eos_token_id=257)
        assert each["ids"] == wanted[0, len(row) :].tolist()
        assert each["text"] == predictor.decode(each["ids"])


def test_it_stops_before_a_string_and_at_the_end_token(predictor: Predictor) -> None:
    free = predictor.generate([[5, 6, 7]], Sampling(max_new_tokens=8, temperature=0))[0]
    stop = predictor.decode(free["ids"][3:4])
    held = predictor.generate([[5, 6, 7]], Sampling(max_new_tokens=8, temperature=0, stop=[stop]))[0]
    assert held["ended"] == "stop"
    assert held["text"] == free["text"].partition(stop)[0]
    predictor.about["eos_token_id"], before = free["ids"][2], predictor.about["eos_token_id"]
    ended = predictor.generate([[5, 6, 7]], Sampling(max_new_tokens=8, temperature=0))[0]
    predictor.about["eos_token_id"] = before
    assert (ended["ended"], len(ended["ids"])) == ("eos", free["ids"].index(free["ids"][2]) + 1)


def test_the_command_line_answers_for_text_files_folders_and_ids(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("naïve\ncafé\n", encoding="utf-8")
    (tmp_path / "in" / "b.txt").write_text("你好", encoding="utf-8")
    plain = ["--bundle", str(bundle), "--format", "onnx", "--max-new-tokens", "2", "--json"]

    def answer(*more: str) -> list[dict[str, Any]]:
        assert inference.main([*plain, *more]) == 0
        return json.loads(capsys.readouterr().out)["results"]

    assert len(answer("--input", "Once")) == 1
    assert [Path(each["input"]).name for each in answer("--input", str(tmp_path / "in"))] == [
        "a.txt",
        "b.txt",
    ]
    assert len(answer("--input", str(tmp_path / "in" / "a.txt"), "--lines", "--batch", "1")) == 2
    one, other = (answer("--ids", "1,2,3", "--seed", "1", "--top-k", "5", "--top-p", "0.9") for _ in "ab")
    assert one == other, "a seed decides"
    for wrong in (["--ids", "1,999"], [], ["--input", "a", "--ids", "1"], ["--input", "a", "--top-p", "2"]):
        assert inference.main([*plain, *wrong]) == 2
    assert inference.main([*plain, "--input", "a", "--format", "tflite"]) == 5
    assert "the bundle has no format tflite" in capsys.readouterr().err


@settings(max_examples=30, deadline=None)
@given(
    # Tenths: two that differ by rounding only may come in either order, here and in the house.
    st.lists(st.integers(-80, 80).map(lambda each: each / 10), min_size=2, max_size=9, unique=True),
    st.sampled_from([None, 1, 2, 5, 50]),
    st.sampled_from([None, 0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.3, 1.0, 2.0]),
)
def test_the_same_tokens_may_come_as_in_the_house(
    logits: list[float], top_k: int | None, top_p: float | None, temperature: float
) -> None:
    """Whatever either can draw in many trials, the other can too, where shares are not tiny."""
    values = np.asarray(logits, dtype=np.float32)
    random = np.random.default_rng(0)
    mine = {choose(values, Sampling(1, temperature, top_k, top_p), random) for _ in range(60)}
    sampling = HouseSampling(max_new_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p)
    many = torch.from_numpy(values).expand(400, -1)
    theirs = set(house_choose(many, sampling, torch.Generator().manual_seed(0)).tolist())
    shares = inference.softmax(values.astype(np.float64) / temperature)
    assert {each for each in mine if shares[each] > 0.1} <= theirs


def test_pictures_become_pixels_as_in_training(predictor: Predictor, tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), (255, 0, 128)).save(tmp_path / "a.png")
    predictor.about["image"] = {
        "height": 6,
        "width": 5,
        "channels": 3,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 1, 1],
    }
    pixels = predictor.pixels(tmp_path / "a.png")
    assert pixels.shape == (3, 6, 5)
    assert np.allclose(pixels[:, 0, 0], [1.0, -0.5, 128 / 255 - 0.5], atol=1e-6)
    with pytest.raises(Wrong, match="there is no picture"):
        list(inference.read_inputs("nowhere.png", False, True))


def test_classes_have_names_and_shares(predictor: Predictor) -> None:
    predictor.about["labels"] = ["no", "yes"]
    found = predictor.classify(np.asarray([0.0, np.log(3.0)], dtype=np.float32))
    assert (found["label"], found["class"]) == ("yes", 1)
    assert np.allclose(found["probabilities"], [0.25, 0.75])


def test_the_programs_import_nothing_of_torchstone(made_once: Path) -> None:
    for name in ("runtimes.py", "verify.py", "inference.py"):
        text = (made_once / name).read_text()
        assert "torchstone." not in text.replace("torchstone.verify-bundle", "").replace(
            "torchstone.predict", ""
        ).replace("torchstone.bundle", ""), name
        compile(text, name, "exec")
    assert "inference" not in sys.modules
