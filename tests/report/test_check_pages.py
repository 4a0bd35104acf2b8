"""A check report on a terminal, as a page and as JUnit: complete, readable, safe from strange names."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from report.pages import Reader, drawn, fetches
from report.reports import HOSTILE, HOSTILE_REPORT, ORDINARY, check, report

from torchstone.report.check_html import check_html
from torchstone.report.check_junit import check_junit
from torchstone.report.check_table import check_table
from torchstone.report.inert import inert


def test_the_table_has_a_line_per_check_a_verdict_and_what_to_do():
    text = drawn(check_table(ORDINARY))
    for each in ORDINARY["checks"]:
        assert re.search(rf"^{each['status'].upper()}\s+{each['id']}\s", text, re.MULTILINE)
    assert "[blocks.7.attn]" in text
    assert "(the model keeps no cache)" in text
    assert "FAIL  1 pass, 1 warn, 1 fail, 1 error, 1 skip in 1.2 s (seed 0)" in text
    assert text.index("causal-leak in blocks.7.attn:") < text.index("residual-scale in blocks.1:")
    assert "Mask the scores above the diagonal" in text


def test_the_table_fits_eighty_columns_and_needs_no_colour():
    text = drawn(check_table(ORDINARY), no_color=True, force_terminal=True)
    assert max(len(line) for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()) <= 80
    assert not re.search(r"\x1b\[[\d;]*3\d", text)
    assert re.search(
        r"\x1b\[[\d;]*3\d", drawn(check_table(ORDINARY), force_terminal=True, color_system="standard")
    )


def test_nothing_ran_is_said():
    assert "ERROR  nothing ran" in drawn(check_table(report(verdict="error")))


def test_a_name_cannot_steer_the_terminal():
    text = drawn(check_table(HOSTILE_REPORT), width=200, force_terminal=True, color_system=None)
    assert "\x00" not in text
    assert "\x1b[2J" not in text
    assert r"\x1b[2J" in text


def test_the_page_shows_everything_of_the_report():
    page = Reader(check_html(ORDINARY))
    for each in ORDINARY["checks"]:
        assert each["id"] in page.text
        assert each["summary"] in page.text
    for words in (
        "because: the model keeps no cache",
        "To do: Mask the scores",
        "1,234,567",
        "0.25 max abs",
        "inf",
    ):
        assert words in page.text
    assert "1 fail, 1 error, 1 warn, 1 pass, 1 skip in 1.2 s" in page.text


def test_the_page_loads_nothing_and_forbids_it_too():
    page = check_html(ORDINARY, modules=["blocks.7.attn"])
    assert fetches(page) == []
    assert "default-src 'none'" in page
    assert Reader(page).tags["script"] == 0


def test_a_hostile_name_stays_text_on_the_page():
    ordinary, hostile = (Reader(check_html(each)) for each in (ORDINARY, HOSTILE_REPORT))
    assert hostile.tags["script"] == hostile.tags["img"] == 0
    assert not {name for name, _ in hostile.attributes if name.startswith("on")}
    assert hostile.tags.keys() == ordinary.tags.keys()
    shown = re.sub(r"\s+", " ", hostile.text)
    assert shown.count(re.sub(r"\s+", " ", inert(HOSTILE))) >= 12
    assert "\x00" not in hostile.text


def test_the_guilty_module_is_marked_in_the_tree():
    modules = ["embed", "blocks.0.attn", "blocks.7", "blocks.7.attn", "blocks.7.mlp", "head"]
    page = check_html(ORDINARY, modules)
    guilty = re.findall(r'<li class="guilty"><code>([^<]+)</code> ([^<]*)', page)
    assert guilty == [("attn", "causal-leak"), ("1", "residual-scale")]
    assert [name for name in ("embed", "mlp", "head") if f"<code>{name}</code>" in page] == [
        "embed",
        "mlp",
        "head",
    ]
    assert "Where in the model" not in check_html(report(check("a", "pass"), verdict="pass"))


@pytest.mark.parametrize("given", [ORDINARY, HOSTILE_REPORT, report(verdict="error")])
def test_junit_is_well_formed_and_counts_agree(given):
    root = ElementTree.fromstring(check_junit(given))
    suite = root.find("testsuite")
    counts = Counter(each["status"] for each in given["checks"])
    for element in (root, suite):
        assert {name: int(element.get(name)) for name in ("tests", "failures", "errors", "skipped")} == {
            "tests": len(given["checks"]),
            "failures": counts["fail"],
            "errors": counts["error"],
            "skipped": counts["skip"],
        }
    for tag, status in (("failure", "fail"), ("error", "error"), ("skipped", "skip"), ("system-out", "warn")):
        assert len(suite.findall(f"testcase/{tag}")) == counts[status]
    assert [case.get("name") for case in suite.iter("testcase")] == [
        inert(each["id"]) for each in given["checks"]
    ]


def test_junit_tells_the_guilty_module_and_the_reason():
    root = ElementTree.fromstring(check_junit(ORDINARY))
    failure = root.find(".//failure")
    assert failure.get("message") == "Token 9 changes the output at position 3."
    assert failure.text.splitlines() == [
        "module: blocks.7.attn",
        "hint: Mask the scores above the diagonal before the softmax.",
        "measured: 0.25 max abs (limit 1e-06)",
    ]
    assert root.find(".//skipped").get("message") == "the model keeps no cache"
