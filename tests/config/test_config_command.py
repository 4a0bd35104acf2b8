"""The verbs of `torchstone config`, called as a user calls them, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from config.config_trees import TREES

from torchstone.cli.main import run
from torchstone.config.defconfigs import available, summary
from torchstone.config.docs import json_schema, markdown
from torchstone.config.kconfig import Tree
from torchstone.config.knobs import knobs_of, symbol_of
from torchstone.config.lint import lint
from torchstone.config.resolve import resolve
from torchstone.study.config import SECTIONS
from torchstone.train.config import SECTIONS as TRAINING

ROOT = Path(__file__).parents[2]
VERBS = ("list", "defconfig", "oldconfig", "save", "menu", "show", "diff", "lint")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    short = [each.environment for each in knobs_of(SECTIONS).values() if each.environment]
    for name in [each for each in os.environ if each.startswith("CONFIG_") or each in short]:
        monkeypatch.delenv(name)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(["config", *arguments]) == code
    return capsys.readouterr().out


def test_a_training_job_obeys_sections_of_the_program() -> None:
    assert {name: SECTIONS[name] for name in TRAINING} == TRAINING


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, verb, "--help")
    assert "Example:" in text
    assert f"torchstone config {verb}" in text


def test_defconfig_show_save_is_a_circle(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "defconfig", "quickstart", "--set", "train.max_steps=20")
    shown = json.loads(said(capsys, "show", "--json"))
    values = {each["key"]: each for each in shown["knobs"]}
    assert list(values) == list(knobs_of(SECTIONS))
    assert values["train.max_steps"]["value"] == 20
    assert values["train.max_steps"]["source"].startswith(".config:")
    said(capsys, "save", "mine")
    assert resolve(SECTIONS, defconfig="mine").hash == shown["hash"]
    assert 'CONFIG_TRAIN_MAX_STEPS="20"' in Path("mine").read_text()
    said(capsys, "defconfig", "mine")
    assert Path(".config").read_bytes() == Path(".config.old").read_bytes()
    assert said(capsys, "diff", "mine", ".config") == ""
    assert said(capsys, "oldconfig", "--dry-run") == Path(".config").read_text()


def test_environment_wins_over_the_defconfig(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIG_TRAIN_MAX_STEPS", "7")
    shown = json.loads(said(capsys, "show", "train.max_steps", "--defconfig", "quickstart", "--json"))
    assert [(each["value"], each["source"]) for each in shown["knobs"]] == [
        (7, "environment CONFIG_TRAIN_MAX_STEPS")
    ]


def test_show_is_lines_of_columns_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # whoever sets a width asks for the table
    lines = said(capsys, "show", "optim", "--set", "optim.beta1=0.5", "--changed").splitlines()
    assert lines == ["optim.beta1\t0.5\t--set\t\tDecay of the first moment."]
    assert said(capsys, "show", "train.epochs", "-q") == "train.epochs=10\n"
    said(capsys, "show", "train.epocs", code=2)


def test_diff_names_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    made = resolve(SECTIONS, overrides=[("train.epochs", "3")])
    Path("run/config.json").write_text(json.dumps(made.to_json()))
    found = json.loads(said(capsys, "diff", "default", "run", "--json"))
    assert found["differences"] == [{"key": "train.epochs", "left": "10", "right": "3"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("defconfig", "quikstart"),
        ("defconfig", "quickstart", "--set", "train.max_step=3"),
        ("save", "mine", "--set", "train.epochs=0"),
        ("oldconfig", "--config", "nowhere"),
        ("lint", "nowhere"),
        ("menu",),
    ],
)
def test_a_refused_command_leaves_the_disk_as_it_was(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".config").write_text("CONFIG_TRAIN_EPOCHS=2\n")
    said(capsys, *arguments, code=2)
    assert [path.name for path in Path().iterdir()] == [".config"]
    assert Path(".config").read_text() == "CONFIG_TRAIN_EPOCHS=2\n"


def test_lint_exits_2_with_places_and_fix_repairs(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".config").write_text("CONFIG_TRAIN_EPOCHS = 2\nCONFIG_TRAIN_BATCH_SIZE=8 # eight\n")
    found = json.loads(said(capsys, "lint", "--json", code=2))
    assert [each["where"] for each in found["mistakes"]] == [".config:1", ".config:2"]
    assert all(each["fixable"] for each in found["mistakes"])
    assert ".config:2" in said(capsys, "lint", code=2)
    said(capsys, "lint", "--fix")
    assert Path(".config").read_text() == "CONFIG_TRAIN_EPOCHS=2\n# eight\nCONFIG_TRAIN_BATCH_SIZE=8\n"


def test_shipped_defconfigs_are_sound_minimal_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(SECTIONS)
    found = dict(available())
    assert {"quickstart", "gpt-nano", "gpt-tiny"} <= set(found)
    for name, path in found.items():
        assert lint(path, tree, name) == []
        assert len(summary(path)) > 20
        minimal = tree.minimal_text(resolve(SECTIONS, defconfig=name).plain)
        lines = path.read_text().splitlines()
        said = [each for each in lines if not each.startswith("# ") or each.startswith("# CONFIG_")]
        assert said == minimal.splitlines()[1:]
    monkeypatch.chdir(ROOT)
    assert sorted(dict(available())) == sorted(found)


def test_the_page_of_knobs_is_up_to_date() -> None:
    page = ROOT / "docs" / "config.md"
    line = "python -m torchstone config show --markdown > docs/config.md"
    assert page.read_text(encoding="utf-8") == markdown(SECTIONS), f"run: {line}"


@pytest.mark.parametrize("name", TREES)
def test_page_and_schema_hold_every_knob(name: str) -> None:
    page, schema = markdown(TREES[name]), json_schema(TREES[name])
    for key, knob in knobs_of(TREES[name]).items():
        assert f"`{key}`" in page
        here = schema
        for step in key.split("."):
            here = here["properties"][step]
        assert (here["description"], here["x-symbol"]) == (knob.help, symbol_of(key))
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_no_verb_imports_torch() -> None:
    program = (
        "import sys; from torchstone.cli.main import run\n"
        "codes = [run(['config', *line.split()]) for line in ('list', 'show --json', 'show --schema',"
        " 'defconfig gpt-nano', 'save', 'lint', 'diff default .config')]\n"
        "assert codes == [0] * 7, codes\n"
        "print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_page_on_configuring_names_what_there_is() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {each for line in re.findall(r"^([a-z% -]+):", makefile, re.MULTILINE) for each in line.split()}
    for target in re.findall(r"^make ([a-z][a-z-]*)", page, re.MULTILINE):
        assert target in targets or re.sub(r"-[a-z-]+$", "-%", target) in targets or "defconfig-" in target
    verbs = set(re.findall(r"torchstone config ([a-z]+)", page))
    assert verbs <= set(VERBS)
    for knob in knobs_of(SECTIONS).values():
        if knob.environment:
            assert re.search(rf"^\| `{knob.environment}=[0-9]+` \| `{knob.key}`", page, re.MULTILINE), (
                knob.key
            )
    for key in re.findall(
        r"`((?:train|data|optim|model|check|tracking|prune)\.[a-z_.]+[a-z])(?:=[^`]*)?`", page
    ):
        assert key in knobs_of(SECTIONS), key
