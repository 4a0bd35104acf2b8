"""`torchstone data show`: what a source holds, as a page and as one JSON object, with the right exit code."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from zoo.documented import schema

from torchstone.cli.main import run

LICENSES = Path("/usr/share/common-licenses")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = run(["data", "show", *arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    if found["schema"] == "torchstone.data/1":
        jsonschema.validate(found, schema("torchstone.data/1"))
    return code, found


def reviews(path: Path, count: int = 30) -> Path:
    rows = [f"review number {number},{'good' if number % 3 else 'bad'}" for number in range(count)]
    path.write_text("\n".join(["review,mark", *rows]) + "\n")
    return path


def test_a_text_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(f"text number {number}\n" * 20)
    code, found = shown(capsys, str(tmp_path), "--tokenizer", "bytes", "--sample", "5")
    assert (code, found["verdict"], found["unit"], found["sample"]) == (0, "warn", "file", 5)
    assert sum(split["examples"] for split in found["splits"].values()) == 12
    assert found["lengths"]["unit"] == "tokens"
    assert len(found["preview"]) == 3


@pytest.mark.skipif(not LICENSES.is_dir(), reason="no Debian: /usr/share/common-licenses is absent")
def test_the_texts_of_a_debian_package(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = shown(capsys, f"{LICENSES}/[A-Z]*")
    assert code == 0
    assert found["statistics"]["total_chars"] > 50_000


def test_a_table_with_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = reviews(tmp_path / "a.csv")
    more = ["--task", "classification", "--set", "data.text_column=review", "--set", "data.label_column=mark"]
    code, found = shown(capsys, str(path), *more)
    assert (code, found["task"], found["unit"]) == (0, "classification", "row")
    assert [(each["name"], each["examples"]) for each in found["classes"]] == [("good", 20), ("bad", 10)]
    assert {each["label"] for each in found["preview"]} <= {"good", "bad"}
    long = [*more, "--set", "data.sequence_length=15"]
    code, found = shown(capsys, str(path), *long)
    assert code == 1
    assert next(each for each in found["rates"] if each["name"] == "too-long")["count"] == 20


def test_a_page_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain [red]words[/red]\n\nsecond \x1b[31mblock\n")
    assert run(["data", "show", str(tmp_path / "a.txt")]) == 1  # one of two blocks is damaged
    page = capsys.readouterr().out
    assert "\x1b" not in page
    for word in ("[red]words[/red]", "95 % interval", "damaged", "characters per block", r"\x1b[31mblock"):
        assert word in page


def test_standard_input(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one\n\ntwo\n"), isatty=lambda: False)
    )
    code, found = shown(capsys, "-")
    assert (code, found["statistics"]["num_samples"]) == (0, 2)
    assert len(list((tmp_path / "cache" / "stdin").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["absent.csv"], 4, "DataError"),
        (["builtin:stdlb"], 2, "UsageError"),
        (["builtin:stdlib", "--task", "causal-ml"], 2, "UsageError"),
        (["builtin:stdlib", "--set", "data.text_column=text"], 2, "ConfigError"),
        (["builtin:stdlib", "--task", "classification"], 4, "DataError"),
        (["builtin:stdlib", "--sample", "0"], 2, "UsageError"),
        (["builtin:stdlib", "--tokenizer", "absent.json"], 4, "DataError"),
    ],
)
def test_what_cannot_be_shown(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, kind: str
) -> None:
    got, found = shown(capsys, *arguments)
    assert (got, found["schema"], found["error"]) == (code, "torchstone.error/1", kind)
