"""A page is signed, notices what was done to it, and stands only as long as its runs do."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_claim.changes import ending, setting
from study_claim.recordings import Bench, git, pair

from torchstone._errors import DataError, UsageError
from torchstone.study.claim.gate import publish
from torchstone.study.claim.seal import content_hash, judge_again, verify
from torchstone.tracking.marks import add_tags, invalidate, remove_tags, revalidate
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store


@pytest.fixture(scope="module")
def published(with_commits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, a claim that is supported, and its page."""
    folder = tmp_path_factory.mktemp("published") / "bench"
    shutil.copytree(with_commits, folder)
    bench = Bench(folder, git(folder, "rev-parse", "HEAD"))
    pair(bench)
    assert publish(bench.claim(), store=bench.store).verdict == "SUPPORTED"
    return folder


@pytest.fixture
def page(bench: Bench, published: Path) -> Path:
    """A copy of it where `bench` is."""
    shutil.rmtree(bench.folder / ".git")
    shutil.copytree(published, bench.folder, dirs_exist_ok=True)
    return bench.folder / "claim-page"


def record(page: Path) -> dict[str, Any]:
    return json.loads((page / "page.json").read_text())


def test_a_fresh_page_stands(page: Path) -> None:
    found = verify(page)
    assert found.stands
    assert (found.status, found.was, found.verdict, found.reasons) == ("holds", "SUPPORTED", "SUPPORTED", ())
    assert verify(page / "page.json").stands
    assert sorted(each.name for each in page.iterdir()) == [
        "page.html",
        "page.json",
        "page.md",
        "picture.png",
    ]


def test_a_page_shows_everything_it_rests_on(page: Path, bench: Bench) -> None:
    shown = (page / "page.html").read_text(), (page / "page.md").read_text()
    for text in shown:
        plain = text.replace("\\", "")
        for each in (
            "SUPPORTED",
            bench.commit[:12],
            "4 x B200",
            "not compiled",
            "candidate-2",
            "d1",
            "12,700",
        ):
            assert each in plain, each
        assert "relative 5 %" in plain
        assert record(page)["signature"]["content"] in plain
        assert re.search(r"optim\.learning_rate\D+5\.00?e-05\D+3\.00?e-04", plain)
    assert "http" not in re.sub(r"<style>.*?</style>", "", shown[0], flags=re.DOTALL).split("<body>")[1]


def test_a_page_tells_nothing_of_the_machine(page: Path, bench: Bench) -> None:
    for file in ("page.json", "page.html", "page.md"):
        assert str(bench.folder) not in (page / file).read_text()


def test_a_folder_can_be_moved_as_a_whole(page: Path, bench: Bench, tmp_path: Path) -> None:
    bench.folder.rename(tmp_path / "moved")
    assert verify(tmp_path / "moved" / "claim-page").stands


@pytest.mark.parametrize("file", ["page.html", "page.md", "picture.png"])
def test_a_changed_file_is_noticed(page: Path, file: str) -> None:
    content = (page / file).read_bytes()
    (page / file).write_bytes(content[:-2] + b"xx")
    assert (verify(page).status, verify(page).reasons) == ("tampered", (f"{file} is not what was signed",))
    (page / file).unlink()
    assert verify(page).reasons == (f"{file} is missing",)
    (page / file).write_bytes(content)
    assert verify(page).stands


def verdict(content: dict[str, Any]) -> None:
    content["verdict"] = "SUPPORTED"


def effect(content: dict[str, Any]) -> None:
    content["effect"] *= 2


def digest(content: dict[str, Any]) -> None:
    content["arms"][0]["runs"][0]["digest"] = "0" * 64


def commit(content: dict[str, Any]) -> None:
    content["arms"][0]["runs"][0]["facts"]["commit"] = "0" * 40


@pytest.mark.parametrize("change", [effect, digest, commit])
def test_a_changed_content_is_noticed(page: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = record(page)
    change(found["content"])
    (page / "page.json").write_text(json.dumps(found))
    assert verify(page).status == "tampered"
    assert "not what was signed" in verify(page).reasons[0]


def test_who_changes_the_verdict_and_signs_again_is_found_out(bench: Bench) -> None:
    pair(bench, change=setting("optim.schedule", "linear"))
    assert publish(bench.claim(), store=bench.store).verdict == "REFUSED"
    page = bench.folder / "claim-page"
    assert not verify(page).stands
    found = record(page)
    verdict(found["content"])
    found["signature"]["content"] = content_hash(found["content"])
    (page / "page.json").write_text(json.dumps(found))
    standing = verify(page)
    assert (standing.status, standing.was, standing.verdict) == ("demoted", "SUPPORTED", "REFUSED")
    assert not standing.stands


def test_an_invalid_run_demotes_the_page(page: Path, bench: Bench) -> None:
    with Store.open(bench.store) as store:
        invalidate(store, "candidate-1", "leaked")
        standing = verify(page)
        assert (standing.status, standing.verdict, standing.stands) == ("demoted", "REFUSED", False)
        assert any("invalidated: leaked" in reason for reason in standing.reasons)
        # The page learns of it by itself, and of its return.
        (told,) = judge_again(store, "candidate-1")
        assert told.verdict == "REFUSED"
        assert record(page)["content"]["verdict"] == "REFUSED"
        assert "REFUSED" in (page / "page.html").read_text()
        assert [each["verdict"] for each in record(page)["content"]["history"]] == ["SUPPORTED"]
        revalidate(store, "candidate-1", "it had not")
        judge_again(store, "candidate-1")
    assert record(page)["content"]["verdict"] == "SUPPORTED"
    assert [each["verdict"] for each in record(page)["content"]["history"]] == ["SUPPORTED", "REFUSED"]
    assert verify(page).stands


def test_a_changed_number_demotes_or_is_told(page: Path, bench: Bench) -> None:
    with Store.open(bench.store) as store:
        store.log_rows("candidate-1", [MetricRow("val/loss", 100, 2.7101)])
        assert verify(page).status == "changed"
        assert verify(page).reasons == ("what is known of candidate-1 in candidate has changed",)
        store.log_rows("candidate-1", [MetricRow("val/loss", 100, 3.7)])
        assert (verify(page).status, verify(page).verdict) == ("demoted", "NON-DIAGNOSTIC")


def test_a_new_run_in_an_arm_is_told(page: Path, bench: Bench) -> None:
    bench.arm("late", [2.9], first_seed=4, config={"optim.learning_rate": 3e-4})
    with Store.open(bench.store) as store:
        add_tags(store, "late-0", ["candidate"])
    assert verify(page).status == "demoted"
    assert "late-0 is new in candidate" in verify(page).reasons


def test_runs_that_are_gone_demote(page: Path, bench: Bench) -> None:
    bench.store.rename(bench.folder / "else.db")
    assert (verify(page).status, verify(page).verdict) == ("demoted", "REFUSED")
    assert verify(page, bench.folder / "else.db").stands


def test_a_page_whose_other_runs_are_gone_is_told_when_a_run_is_judged_again(
    page: Path, bench: Bench
) -> None:
    before = (page / "page.json").read_bytes()
    with Store.open(bench.store) as store:
        for number in range(3):
            remove_tags(store, f"baseline-{number}", ["baseline"])
        (told,) = judge_again(store, "candidate-1")
    assert (told.status, told.verdict) == ("demoted", "REFUSED")
    assert "cannot be found again" in told.reasons[0]
    assert (page / "page.json").read_bytes() == before


def test_a_commit_that_is_gone_demotes(page: Path, bench: Bench) -> None:
    (bench.folder / ".git").rename(bench.folder / "away")
    git(bench.folder, "init", "-q")
    assert verify(page).verdict == "REFUSED"


def test_publishing_again_keeps_the_earlier_verdicts(page: Path, bench: Bench) -> None:
    first = record(page)["signature"]["content"]
    bench.arm("worse", [3.3, 3.31, 3.33], config={"optim.learning_rate": 3e-4})
    arms = 'baseline = "runs:tag=baseline"\ncandidate = "runs:tag=worse"'
    found = publish(bench.claim(arms=arms), store=bench.store)
    assert found.verdict == "NEUTRAL"
    assert [(each["verdict"], each["sha256"]) for each in found.history] == [("SUPPORTED", first)]
    assert first[:16] in (page / "page.md").read_text()


def test_a_page_that_was_changed_is_not_written_over(page: Path, bench: Bench) -> None:
    found = record(page)
    found["content"]["verdict"] = "NEUTRAL"
    (page / "page.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match="changed after it was signed"):
        publish(bench.claim(), store=bench.store)


def test_a_folder_of_something_else_is_left_alone(bench: Bench) -> None:
    pair(bench)
    (bench.folder / "notes").mkdir()
    (bench.folder / "notes" / "page.md").write_text("mine")
    with pytest.raises(UsageError, match="no page"):
        publish(bench.claim(), store=bench.store, out=bench.folder / "notes")
    assert (bench.folder / "notes" / "page.md").read_text() == "mine"
    for text in ("{}", "[]", "no", '{"schema": "torchstone.page/1", "content": {}, "signature": {}}'):
        (bench.folder / "notes" / "page.json").write_text(text)
        with pytest.raises(DataError, match="no page of torchstone"):
            verify(bench.folder / "notes")


def test_the_page_of_another_claim_is_left_alone(page: Path, bench: Bench) -> None:
    before = (page / "page.json").read_bytes()
    with pytest.raises(UsageError, match="another claim"):
        publish(bench.claim(name="other.toml"), store=bench.store, out=page)
    assert (page / "page.json").read_bytes() == before


def test_a_dry_run_writes_nothing(bench: Bench) -> None:
    pair(bench)
    claim = bench.claim()
    before = {path: path.stat().st_mtime_ns for path in bench.folder.rglob("*")}
    assert publish(claim, store=bench.store, dry_run=True).verdict == "SUPPORTED"
    assert {path: path.stat().st_mtime_ns for path in bench.folder.rglob("*")} == before


def test_names_of_strangers_stay_text(bench: Bench) -> None:
    pair(bench, change_both=ending(reason="<script>alert(1)</script> | $x$ ``` [a](b)"))
    publish(bench.claim(title='"<b>bold</b> $\\\\frac{1}{2}$ ``` | [x](y)"'), store=bench.store)
    page = bench.folder / "claim-page"
    html = (page / "page.html").read_text()
    assert "<script>" not in html
    assert "<b>bold</b>" not in html
    markdown = (page / "page.md").read_text()
    head = markdown.splitlines()[0]
    assert "\\<b\\>" in head
    assert "\\[x\\]" in head
    assert markdown.count("\n````toml\n") == 1
    assert verify(page).stands


def test_the_page_is_sound_html_with_a_picture_for_light_and_dark(page: Path) -> None:
    html = (page / "page.html").read_text()
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == 2
    for svg in svgs:
        xml.etree.ElementTree.fromstring(re.sub(r"xlink:href", "href", svg))
    described = re.search(r'aria-label="([^"]*)"', html)
    assert described is not None
    assert "candidate: 2.7, 2.71, 2.72" in described[1]
    assert "improvement 9.9" in described[1]
