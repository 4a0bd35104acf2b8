"""A TARGET is read as what it is, and whatever is none is refused with a way on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone._errors import TorchstoneError, UsageError
from torchstone.adapt.target import from_anywhere, parse_target
from torchstone.adapt.tokenizer_of import find_tokenizer
from torchstone.data.bpe import train_bpe

ID = "8c78c8681a2b3c4d5e6f708192a3b4c5"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "revision", "name"),
    [
        (f"gist:{ID}", None, None),
        (f"gist:{ID}@{REVISION}", REVISION, None),
        (f"gist:{ID}@0123abc", "0123abc", None),
        (f"gist:{ID.upper()}", None, None),
        (f"https://gist.github.com/{ID}", None, None),
        (f"https://gist.github.com/someone/{ID}", None, None),
        (f"https://gist.github.com/someone/{ID}/", None, None),
        (f"https://gist.github.com/someone/{ID}.git", None, None),
        (f"https://gist.github.com/someone/{ID}/{REVISION}", REVISION, None),
        (f"https://gist.github.com/someone/{ID}/{REVISION}#file-model-py", REVISION, None),
        (f"https://gist.github.com/someone/{ID}#file-model-py", None, None),
        (f"https://gist.github.com/deadbeef/{ID}", None, None),
        (f"https://gist.githubusercontent.com/someone/{ID}/raw/{REVISION}/model.py", REVISION, None),
        (f"https://api.github.com/gists/{ID}", None, None),
        (f"https://api.github.com/gists/{ID}/{REVISION}", REVISION, None),
        (f"https://colab.example/notebook.ipynb#gist_id={ID}&name=MyModel", None, "MyModel"),
        (f"https://colab.example/notebook.ipynb?gist_id={ID}&name=My%20Model", None, "My Model"),
        (f"https://colab.example/notebook.ipynb#gist_id={ID}@{REVISION}", REVISION, None),
    ],
)
def test_every_form_of_a_gist_means_its_id_and_revision(text: str, revision: str | None, name: str | None):
    target = parse_target(text)
    assert (target.kind, target.value, target.revision, target.name_hint) == ("gist", ID, revision, name)
    assert target.untrusted_by_default


@pytest.mark.parametrize(
    "text",
    [
        "gist:not-a-gist-deadbeef",
        "gist:",
        "gist:xyz",
        "gist:deadbee",
        f"gist:{ID}0",
        f"gist:{ID}@",
        f"gist:{ID}@main",
        f"gist:../{ID}",
        f"gist:{ID}/..",
        "https://gist.github.com/someone/not-a-gist-deadbeef",
        "https://gist.github.com/",
        f"https://example.com/{ID}",
        f"file:///gists/{ID}",
        "https://colab.example/notebook.ipynb#gist_id=../../etc",
    ],
)
def test_what_is_no_gist_is_refused(text: str):
    with pytest.raises(UsageError) as refused:
        parse_target(text)
    assert refused.value.exit_code == 2


@given(st.text(alphabet="0123456789abcdefg-/@.", max_size=40))
def test_only_a_whole_id_is_an_id(text: str):
    """No text reaches the network as an id unless every character of it is a hexadecimal digit."""
    try:
        target = parse_target(f"gist:{text}")
    except UsageError:
        return
    assert set(target.value) <= set("0123456789abcdef")
    assert 8 <= len(target.value) <= 32
    assert f"{target.value}@{target.revision}" == text or target.value == text


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert parse_target("model.py").kind == "file"
    assert parse_target("model.py:Net").class_name == "Net"
    assert parse_target(tmp_path).kind == "folder"
    assert parse_target(".").kind == "folder"
    assert parse_target(f"{tmp_path}:Net").class_name == "Net"
    assert not parse_target(".").untrusted_by_default


def test_names(tmp_path: Path):
    assert parse_target("zoo:gpt-nano").value == "gpt-nano"
    assert parse_target("hf:org/name").value == "org/name"
    target = parse_target("torch.nn:Linear")
    assert (target.kind, target.value, target.class_name) == ("object", "torch.nn", "Linear")


def test_runs_and_checkpoints(tmp_path: Path):
    run = tmp_path / "20250101-run"
    step = run / "checkpoints" / "step-5"
    step.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (step / "manifest.json").write_text("{}")
    assert parse_target(run).kind == "run"
    assert parse_target(step).kind == "checkpoint"
    assert parse_target("20250101-run", runs=tmp_path).path == run


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("modle.py", "did you mean model.py"),
        ("nowhere/model.py", "no folder"),
        ("no_such_thing", "names no model"),
        ("zooo:gpt-nano", "did you mean zoo:gpt-nano"),
        (ID, f"gist:{ID}"),
        ("weights.bin", "not Python source"),
        ("empty", "no model.py"),
        ("hub", "hf:"),
    ],
)
def test_a_wrong_target_says_what_to_type(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("model.py", "weights.bin"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    with pytest.raises(TorchstoneError) as refused:
        parse_target(text)
    assert refused.value.exit_code == 2
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("here/model.py:Net", "{}/here/model.py:Net"),
        ("here/model.py", "{}/here/model.py"),
        ("here", "{}/here"),
        ("here:Net", "{}/here:Net"),
        ("hf:./here", "hf:{}/here"),
        ("hf:gpt2", "hf:gpt2"),
        ("zoo:gpt-nano", "zoo:gpt-nano"),
        ("package.module:Net", "package.module:Net"),
        ("gist:0123456789abcdef", "gist:0123456789abcdef"),
    ],
)
def test_a_target_that_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model.py").touch()
    monkeypatch.chdir(tmp_path)
    assert from_anywhere(text) == found.format(tmp_path)


def test_a_model_folder_brings_its_vocabulary_and_merges(tmp_path: Path) -> None:
    """As most checkpoints of the GPT-2 family do, without a tokenizer.json."""
    (tmp_path / "model.py").touch()
    assert find_tokenizer(tmp_path / "model.py") is None
    made = train_bpe(["a banana and a bandana"] * 4, 280)
    made.library.model.save(str(tmp_path))
    found = find_tokenizer(tmp_path / "model.py")
    assert found is not None and found.encode("a band") == made.encode("a band")
