"""`make`: the kernel-style targets, run for real on a folder whose environment is this Python's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchstone.config.resolve import resolve
from torchstone.study.config import SECTIONS

ROOT = Path(__file__).parents[2]
NAMES = ("MAX_ITERS", "TIME", "EPOCHS", "DRY_RUN", "V", "MAKEFLAGS", "MAKELEVEL", "TMUX")
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if key not in NAMES and not key.startswith("CONFIG_")
} | {"LC_ALL": "C.UTF-8", "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here: apt-get install make")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makefile and stamps of an environment that is installed; its `torchstone` is this one."""
    (tmp_path / "constraints").mkdir()
    for name in ("pyproject.toml", "constraints/dev.txt"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "torchstone").write_text(f'#!/bin/sh\nexec {sys.executable} -m torchstone "$@"\n')
    (programs / "torchstone").chmod(0o755)
    for stamp in ("bin/python", ".torch", ".quickstart"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def make(folder: Path, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder, env=ENVIRONMENT | environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_defconfig_takes_overrides_and_savedefconfig_keeps_the_difference(folder: Path) -> None:
    make(folder, "defconfig-gpt-nano", "MAX_ITERS=5", "CONFIG_TRAIN_BATCH_SIZE=3", EPOCHS="2")
    made = resolve(SECTIONS, file=folder / ".config")
    assert (made.train.max_steps, made.train.batch_size, made.train.epochs) == (5, 3, 2)
    make(folder, "oldconfig")
    assert (folder / ".config").read_text() == (folder / ".config.old").read_text()
    make(folder, "savedefconfig")
    lines = (folder / "defconfig").read_text().splitlines()
    assert "CONFIG_TRAIN_BATCH_SIZE=3" in lines and len(lines) < 10
    assert "gpt-nano" in make(folder, "list-defconfigs")


def test_a_dry_run_asked_for_when_configuring_is_one_when_making(folder: Path) -> None:
    """The lab's recipe `make defconfig-X DRY_RUN=1 && make` must not train."""
    (folder / "text.txt").write_text("a cat sat on a mat.\n" * 200)
    small = ["CONFIG_DATA_SOURCE=text.txt", "CONFIG_DATA_TOKENIZER=bytes", "CONFIG_MODEL_NUM_LAYERS=1"]
    said = make(folder, "defconfig-gpt-nano", "DRY_RUN=1", *small)
    assert "only say what they would do" in said
    assert resolve(SECTIONS, file=folder / ".config").train.dry_run is True
    said = make(folder, "run")
    assert "dry run" in said and ".config:" in said
    assert not (folder / "runs").exists()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux drives the menu: apt-get install tmux")
def test_the_real_menu_changes_a_switch(folder: Path) -> None:
    """`make menuconfig`: search a symbol, read its help, toggle it, save, in a real terminal."""
    tmux = ["tmux", "-L", f"torchstone-{os.getpid()}", "-f", os.devnull]
    (folder / ".config").write_text("CONFIG_TRAIN_EPOCHS=3\n")

    def do(*arguments: str) -> str:
        return subprocess.run(
            [*tmux, *arguments], capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=folder
        ).stdout

    def wait_for(text: str) -> None:
        until = time.monotonic() + 60
        while text not in (screen := do("capture-pane", "-p", "-t", "menu")):
            assert time.monotonic() < until, screen

    def press(*keys: str) -> None:
        do("send-keys", "-t", "menu", *keys)

    do("new-session", "-d", "-s", "menu", "-x", "120", "-y", "40", "make menuconfig; echo left $?; read -r _")
    try:
        wait_for("train: batch, length")
        press("/")
        wait_for("Jump to symbol")
        press("-l", "TRAIN_MAX_TIME")
        wait_for("TRAIN_MAX_TIME_S")
        press("C-u")
        press("-l", "TRAIN_DETERMINISTIC")
        wait_for("TRAIN_DETERMINISTIC(=n)")
        press("Enter")
        wait_for("[ ] deterministic")
        press("?")
        wait_for("train.deterministic: y or n")
        press("Escape")
        wait_for("[ ] deterministic")
        press("y")
        wait_for("[*] deterministic")
        press("q")
        wait_for("Save configuration?")
        press("y")
        wait_for("left 0")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, env=ENVIRONMENT)
    made = resolve(SECTIONS, file=folder / ".config")
    assert made.train.deterministic and made.train.epochs == 3
    assert (folder / ".config.old").read_text() == "CONFIG_TRAIN_EPOCHS=3\n"


def test_check_is_about_the_study_that_is_named(folder: Path) -> None:
    make(folder, "defconfig-gpt-nano")
    assert "torchstone check --config .config" in make(folder, "-n", "check")
    assert "torchstone train --config .config" in make(folder, "-n")
    assert "torchstone study run widths" in make(folder, "-n", "NAME=widths")
    assert "torchstone study check widths" in make(folder, "-n", "check", "NAME=widths")
    make(folder, "defconfig-gpt-nano", CONFIG_STUDY_NAME="widths")
    assert "torchstone study check --config .config" in make(folder, "-n", "check")
