"""The documents keep up with the code: every check is explained, every JSON object has its schema."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

from torchstone.checks.registry import checks_of
from torchstone.data import quality
from torchstone.data.source import SOURCES
from torchstone.data.table import TABLE_FORMATS
from torchstone.optim.schedule import SCHEDULES
from torchstone.study.claim.confounders import rules
from torchstone.study.claim.recorded import FACTS
from torchstone.study.claim.verdict import VERDICTS
from torchstone.train.losses import LOSSES

DOCS = Path(__file__).parents[2] / "docs"


def test_every_check_is_explained_and_nothing_else() -> None:
    explained = re.findall(r"^### ([a-z-]+)$", (DOCS / "checks.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(check.name for check in checks_of((1, 2, 3, 4, 5)))


def test_every_schema_names_itself() -> None:
    page = (DOCS / "json.md").read_text()
    sections = re.findall(r"^## (torchstone\.\S+)\n.*?```json\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in sections} >= {
        "torchstone.check/1",
        "torchstone.train/1",
        "torchstone.error/1",
    }
    for name, block in sections:
        assert json.loads(block)["properties"]["schema"] == {"const": name}


def test_every_loss_and_schedule_is_in_the_page_on_training() -> None:
    page = (DOCS / "training.md").read_text()
    for name in (*LOSSES.names(), *SCHEDULES.names()):
        assert re.search(rf"^\| `{name}` \|", page, re.MULTILINE), name


def test_every_source_format_and_rate_is_in_the_page_on_data() -> None:
    page = (DOCS / "data.md").read_text()
    for name in (*SOURCES.names(), *(suffix for each in TABLE_FORMATS for suffix in each.suffixes)):
        assert f"`{name}`" in page, name
    questions = [each for each in vars(quality).values() if isinstance(each, quality.Question)]
    for each in questions:
        if each is not quality.BEFORE_RUN:
            assert re.search(
                rf"^\| `{each.name}` \|.*\| {each.limit:.0%} \|$".replace("%", " ?%"), page, re.MULTILINE
            ), each


def test_every_confounder_and_every_fact_is_in_the_page_on_publishing() -> None:
    page = (DOCS / "publish.md").read_text()
    for each in rules():
        assert f"| `{each.name}` | {each.help} |" in page, each.name
    for fact in FACTS.values():
        needed = "yes" if fact.required else ""
        assert re.search(
            rf"^\| `{fact.name}` \| ?{needed} ?\| {re.escape(fact.help)} \|$", page, re.MULTILINE
        ), fact
    for verdict in VERDICTS:
        assert f"| {verdict} |" in page


def test_tables_of_optimizers_and_pruning_are_those_of_the_registries() -> None:
    """`python docs/tables.py` writes them."""
    script = runpy.run_path(str(DOCS / "tables.py"))
    for page in script["TABLES"]:
        text = (DOCS / page).read_text()
        assert text == script["renewed"](page, text), page
