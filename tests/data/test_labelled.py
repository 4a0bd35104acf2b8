"""Sources with labels: classes are numbered the same in both splits, and no example is on two sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from torchstone._errors import ConfigError, DataError
from torchstone.cli.main import run
from torchstone.data.config import DataConfig
from torchstone.data.labelled import read_labelled
from torchstone.data.task import TaskSpec

sklearn = pytest.importorskip("sklearn.datasets", reason="pip install 'torchstone[vision]'")


def write_images(root: Path, names: dict[str, int]) -> Path:
    """Files `class/number.png`, each of its own colour."""
    image = pytest.importorskip("PIL.Image", reason="pip install 'torchstone[vision]'")
    for number, (name, colour) in enumerate(names.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (6, 6), (colour, number, 0)).save(path)
    return root


def test_classes_are_sorted_names_in_both_splits(tmp_path: Path) -> None:
    iris = sklearn.load_iris()
    rows = [
        {"text": " ".join(map(str, row)), "label": str(iris.target_names[kind])}
        for row, kind in zip(iris.data, iris.target, strict=True)
    ]
    (tmp_path / "iris.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_labelled(
        str(tmp_path / "iris.jsonl"), DataConfig(validation_split=0.3), TaskSpec.text_classification(3)
    )
    assert data.class_names == ("setosa", "versicolor", "virginica")
    expected = {(row["text"], data.class_names.index(row["label"])) for row in rows}
    found = [(each["text"], each["labels"]) for side in (data.train, data.val) for each in side]
    assert len(found) == 150
    assert set(found) == expected
    assert not {each["text"] for each in data.train} & {each["text"] for each in data.val}


def test_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,text\n2,a\n0,b\n")
    data = read_labelled(
        str(tmp_path / "a.csv"), DataConfig(validation_split=0.0), TaskSpec.text_classification(3)
    )
    assert list(data.train) == [{"text": "a", "labels": 2}, {"text": "b", "labels": 0}]
    assert (data.num_classes, data.class_names) == (3, ())


def test_digits_are_brought_to_the_size_of_the_model() -> None:
    task = TaskSpec.vision(num_classes=10, image_size=32, num_channels=3)
    data = read_labelled("builtin:digits", DataConfig(validation_split=0.2), task)
    assert len(data.train) + len(data.val) == 1797
    assert 250 < len(data.val) < 470
    example = data.train[0]
    assert example["pixel_values"].shape == (3, 32, 32)
    assert 0 <= float(example["pixel_values"].min()) < float(example["pixel_values"].max()) <= 1
    # The mean of an image survives being enlarged, so it is the same image.
    assert abs(float(example["pixel_values"].mean()) - float(data.train.images[0].mean())) < 0.02
    digits = {image.tobytes() for image in data.train.images}
    assert not digits & {image.tobytes() for image in data.val.images}
    assert np.bincount(data.train.labels).min() > 100
    again = read_labelled("builtin:digits", DataConfig(validation_split=0.2), task)
    other = read_labelled("builtin:digits", DataConfig(validation_split=0.2, split_seed=1), task)
    assert np.array_equal(again.val.images, data.val.images)
    assert {image.tobytes() for image in other.val.images} != {image.tobytes() for image in data.val.images}


def test_names_of_classes_that_a_model_was_trained_with(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\ngood,plus\nbad,minus\nfine,plus\n", encoding="utf-8")
    config = DataConfig(validation_split=0.0)
    known = ("zero", "plus", "minus")
    data = read_labelled(str(table), config, TaskSpec.text_classification(3), class_names=known)
    assert [row["labels"] for row in data.train] == [1, 2, 1] and data.class_names == known
    with pytest.raises(DataError, match="'plus' is none of the classes") as refused:
        read_labelled(str(table), config, TaskSpec.text_classification(2), class_names=("plush", "minus"))
    assert "plush" in refused.value.why and "reviews.csv" in refused.value.where


def test_a_folder_per_class(tmp_path: Path) -> None:
    names = {f"{kind}/{number}.png": number for kind in ("cat", "dog") for number in range(20)}
    data = read_labelled(
        str(write_images(tmp_path, names)), DataConfig(validation_split=0.25), TaskSpec.vision()
    )
    assert data.class_names == ("cat", "dog")
    found = {str(each["image"]): each["labels"] for side in (data.train, data.val) for each in side}
    assert len(found) == 40
    assert all(("dog" in path) == label for path, label in found.items())
    assert 2 <= len(data.val) <= 20


def test_copies_of_an_image_stand_on_one_side_or_are_left_out(tmp_path: Path) -> None:
    root = write_images(tmp_path, {f"cat/{number}.png": number for number in range(12)})
    for path in list(root.glob("cat/*.png")):
        path.with_name(f"copy-{path.name}").write_bytes(path.read_bytes())
    data = read_labelled(str(root), DataConfig(validation_split=0.4), TaskSpec.vision())
    bytes_of = [{each["image"].read_bytes() for each in side} for side in (data.train, data.val)]
    assert len(data.train) + len(data.val) == 24
    assert not bytes_of[0] & bytes_of[1]
    once = read_labelled(str(root), DataConfig(validation_split=0.4, deduplicate="exact"), TaskSpec.vision())
    assert len(once.train) + len(once.val) == 12
    assert once.notes == ("left out: 12 duplicate",)


def test_folders_named_train_and_val_are_the_split(tmp_path: Path) -> None:
    names = {f"train/cat/{number}.png": number for number in range(3)} | {"val/dog/9.png": 9}
    data = read_labelled(str(write_images(tmp_path, names)), DataConfig(), TaskSpec.vision())
    assert [each["labels"] for each in data.train] == [0, 0, 0]
    assert [each["labels"] for each in data.val] == [1]


def test_keys_about_text_have_no_effect_on_images() -> None:
    with pytest.raises(ConfigError, match=r"data\.min_chars has no effect on images"):
        read_labelled("builtin:digits", DataConfig(min_chars=4), TaskSpec.vision())


def test_training_learns_digits_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "train zoo:lenet5 --data builtin:digits --max-steps 60 --json --set train.batch_size=64"
    more = ["--set", "optim.learning_rate=3e-3", "--run-dir", str(tmp_path / "run")]
    code = run([*command.split(), *more])
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["unit"] == "images"
    assert result["final"]["val/loss"] < 1.0  # guessing is 2.30
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == [str(each) for each in range(10)]
