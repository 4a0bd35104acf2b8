"""Every form of data that `Trainer.train` takes becomes the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchstone._errors import ConfigError, DataError, UsageError
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.door import open_data
from torchstone.data.image import read_image
from torchstone.data.task import TaskSpec
from torchstone.data.token_file import fingerprint, open_split, open_tokens

LM = TaskSpec.language_modeling(vocab_size=300, max_length=64)
CLASSES = TaskSpec.text_classification(3, vocab_size=300, max_length=6)
IDS = np.arange(100) % 300


def opened(data: Any, task: TaskSpec = LM, **how: Any) -> Any:
    return open_data(data, task, notes=how.pop("notes", []), **how).dataset


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_a_stream_of_ids_in_any_form_is_blocks(dtype: Any, tmp_path: Path) -> None:
    tokens = IDS.astype(dtype)
    np.save(tmp_path / "ids.npy", tokens)
    tokens.tofile(tmp_path / "ids.bin")
    forms = [tokens, np.load(tmp_path / "ids.npy", mmap_mode="r"), open_tokens(tmp_path / "ids.npy")]
    if dtype is not np.int64:
        forms += [open_tokens(tmp_path / "ids.bin", np.dtype(dtype).name), torch.from_numpy(IDS)]
    for form in forms:
        made = opened(form, sequence_length=16)
        assert len(made) == 6
        assert made.batch([2])["input_ids"].tolist() == [list(range(32, 48))]
        assert made.batch([2])["input_ids"].dtype == torch.long
    assert open_data(tokens, LM, notes=[]).takes_length
    assert opened(tokens).sequence_length == 64  # the model's limit, which is below the default


def test_rows_of_narrow_ids_are_examples() -> None:
    made = opened(np.arange(12, dtype=np.uint16).reshape(3, 4))
    assert made.batch([1])["input_ids"].tolist() == [[4, 5, 6, 7]]
    made = opened([torch.arange(4, dtype=torch.int16)])
    assert made.batch([0])["input_ids"].dtype == torch.long


def test_a_change_of_the_ids_changes_the_fingerprint() -> None:
    other = IDS.copy()
    other[50] += 1
    assert len({fingerprint(each) for each in (IDS, other, IDS[:-1], IDS.astype(np.uint16))}) == 4


def test_a_source_of_ids_is_split_by_halves_or_by_its_tail(tmp_path: Path) -> None:
    IDS[:90].astype(np.uint16).tofile(tmp_path / "train.bin")
    train, val = open_split(str(tmp_path), None, 0.1)
    assert len(train) == 90 and val is None
    IDS[90:].astype(np.uint16).tofile(tmp_path / "val.bin")
    train, val = open_split(str(tmp_path), None, 0.5)
    assert (len(train), len(val)) == (90, 10)  # type: ignore[arg-type]
    train, val = open_split(str(tmp_path / "train.bin"), None, 0.1)
    assert (len(train), val.tolist()) == (81, list(range(81, 90)))  # type: ignore[union-attr]
    assert open_split(str(tmp_path / "train.bin"), None, 0.0)[1] is None


def test_files_that_are_no_ids_are_told(tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"123")
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "text.npy").write_text("not an array")
    np.save(tmp_path / "floats.npy", np.zeros(4))
    np.save(tmp_path / "square.npy", np.zeros((2, 2), dtype=int))
    np.save(tmp_path / "ids.npy", IDS)
    for name, message in [
        ("odd.bin", "3 bytes are no whole number of uint16"),
        ("empty.bin", "the file is empty"),
        ("text.npy", "no .npy file"),
        ("floats.npy", "no stream of token ids"),
        ("square.npy", "no stream of token ids"),
        ("absent.bin", "no such file"),
    ]:
        with pytest.raises(DataError) as caught:
            open_tokens(tmp_path / name)
        assert message in str(caught.value) and name in caught.value.where
    with pytest.raises(ConfigError, match="no effect"):
        open_tokens(tmp_path / "ids.npy", "uint32")


def hugging_face(rows: dict[str, list[Any]]) -> Any:
    return pytest.importorskip("datasets", reason="needs the extra [data]").Dataset.from_dict(rows)


def test_a_hugging_face_dataset_with_ids_is_taken_without_its_other_columns() -> None:
    rows = {"input_ids": [[1, 2, 3], [4, 5]], "label": [0, 2], "id": ["a", "b"], "length": [3, 2]}
    notes: list[str] = []
    made = opened(hugging_face(rows), CLASSES, notes=notes)
    batch = made.batch([0, 1])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert batch["labels"].tolist() == [0, 2]
    assert notes == ["columns left out: id, length"]


@pytest.mark.parametrize("as_rows", [hugging_face, lambda rows: [{"text": each} for each in rows["text"]]])
def test_texts_for_a_language_model_are_one_stream(as_rows: Any) -> None:
    rows = as_rows({"text": ["ab", "c", "defg"]})
    made = opened(rows, tokenizer=ByteTokenizer(), sequence_length=5)
    assert made.batch([0, 1])["input_ids"].tolist() == [[97, 98, 257, 99, 257], [100, 101, 102, 103, 257]]
    plain = opened(["ab", "c", "defg"], tokenizer=ByteTokenizer(), sequence_length=5)
    assert torch.equal(plain.batch([0, 1])["input_ids"], made.batch([0, 1])["input_ids"])


def test_texts_with_labels_are_cut_and_that_is_said() -> None:
    rows = hugging_face({"sentence": ["abc", "a longer one"], "label": [1, 0], "idx": [0, 1]})
    notes: list[str] = []
    batch = opened(rows, CLASSES, tokenizer=ByteTokenizer(), notes=notes).batch([0, 1])
    assert batch["input_ids"].shape == (2, 6) and batch["labels"].tolist() == [1, 0]
    assert notes == ["1 of 2 texts were cut to the 6 tokens that the model takes"]


def test_a_library_tokenizer_keeps_its_marks_for_classes_and_not_for_streams() -> None:
    hf = pytest.importorskip("transformers", reason="needs the extra [hf]")
    words = {
        word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    }
    tokenizer = hf.BertTokenizer(vocab=words)
    rows = [{"text": "a b a b a b a b", "label": 1}, {"text": "b", "label": 0}]
    batch = opened(rows, CLASSES, tokenizer=tokenizer).batch([0, 1])
    assert batch["input_ids"].tolist() == [[2, 5, 6, 5, 6, 3], [2, 6, 3, 0, 0, 0]]
    stream = opened(["a b", "b"], LM, tokenizer=tokenizer, sequence_length=3).batch([0])
    assert stream["input_ids"].tolist()[0][:2] == [5, 6]


def test_pairs_for_seq2seq() -> None:
    rows = [{"source": "ab", "target": "c"}, {"source": "d", "target": "ef"}]
    task = TaskSpec.seq2seq(vocab_size=300)
    batch = opened(rows, task, tokenizer=ByteTokenizer()).batch([0, 1])
    assert batch["input_ids"][0].tolist() == [97, 98]
    assert batch["labels"].tolist() == [[99, -100], [101, 102]]


@pytest.mark.parametrize(
    ("rows", "task", "error", "message"),
    [
        ([{"text": "a"}], LM, UsageError, "no tokenizer"),
        ([{"premise": "a", "hypothesis": "b", "label": 1}], CLASSES, DataError, "which of the columns"),
        ([{"text": "a"}], CLASSES, DataError, "no column of labels"),
        ([{"text": "a", "label": "good"}], CLASSES, DataError, "labels are texts"),
        ([{"text": "", "label": 1}], CLASSES, DataError, "example 0 has no tokens"),
        (["a", None], LM, DataError, "example 1 holds no text"),
        ([{"text": "a", "label": 1}], TaskSpec(kind="token-classification"), DataError, "belong to tokens"),
        ([{"text": "a", "summary": "b"}], TaskSpec.seq2seq(), DataError, "`source` and `target`"),
    ],
)
def test_texts_that_cannot_be_used_are_told(rows: Any, task: TaskSpec, error: Any, message: str) -> None:
    tokenizer = None if "tokenizer" in message else ByteTokenizer()
    with pytest.raises(error) as caught:
        opened(rows, task, tokenizer=tokenizer)
    assert message in str(caught.value)


def test_splits_and_columns_that_no_model_takes_are_told() -> None:
    data = hugging_face({"a": [1], "b": [2]})
    with pytest.raises(DataError, match="no column"):
        opened(data)
    with pytest.raises(DataError, match=r"dictionary of splits"):
        opened({"train": data})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image", reason="needs the extra [vision]")
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, :4, 0] = 255  # the left half is red
    image.fromarray(pixels).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_images_are_read_resized_and_scaled(picture: Path) -> None:
    task = TaskSpec.vision(2, image_size=4)
    pixels = read_image(picture, task, "here")
    assert pixels.shape == (3, 4, 4) and pixels.dtype == torch.float32
    assert pixels[0, 0].tolist() == pytest.approx([1, 1, 0, 0], abs=0.3)
    grey = read_image(picture, TaskSpec.vision(2, image_size=8, num_channels=1), "here")
    assert grey.shape == (1, 8, 8) and 0.2 < float(grey[0, 0, 0]) < 0.4
    for rows in ([(picture, 1)], [(str(picture), 1)], [{"image": picture, "label": 1}]):
        batch = opened(rows, task).batch([0])
        assert torch.equal(batch["pixel_values"][0], pixels) and batch["labels"].tolist() == [1]


def test_an_image_that_cannot_be_read_is_never_replaced(picture: Path) -> None:
    whole = picture.read_bytes()
    for name, content in (("cut.png", whole[:40]), ("text.png", b"no image"), ("empty.jpg", b"")):
        bad = picture.with_name(name)
        bad.write_bytes(content)
        made = opened([(picture, 0), (bad, 1)], TaskSpec.vision(2, image_size=4))
        with pytest.raises(DataError, match="cannot be read") as caught:
            made.batch([0, 1])
        assert "example 1" in caught.value.where and name in caught.value.where
    with pytest.raises(DataError, match="cannot be read"):
        opened([(picture.with_name("absent.png"), 0)], TaskSpec.vision(2)).batch([0])
