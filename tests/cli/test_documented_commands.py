"""The commands of docs/generate-and-eval.md run as they stand there, one after the other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "generate-and-eval.md"


def test_the_page_on_using_a_trained_model_tells_commands_that_run(
    torchstone: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("def add(a, b):\n    return a + b.  # a cat sat on a mat\n" * 80)
    blocks = re.findall(r"^```sh\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 10
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "torchstone"
        answer = torchstone(*arguments)
        assert answer.code == 0, f"{command}\n{answer.err}"
        assert answer.out
