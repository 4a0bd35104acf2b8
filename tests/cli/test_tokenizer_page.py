"""The commands and the Python of docs/tokenizers.md run as they stand there, one after the other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchstone.data.known_tokenizers import KNOWN_TOKENIZERS
from torchstone.data.tokenizer_validator import LAWS

PAGE = (Path(__file__).parents[2] / "docs" / "tokenizers.md").read_text()


def test_the_page_on_tokenizers_tells_what_runs(torchstone: Callable[..., Any]) -> None:
    for block in re.findall(r"^```sh\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL):
        for command in block.splitlines():
            program, *arguments = shlex.split(command)
            assert program == "torchstone"
            answer = torchstone(*arguments)
            assert answer.code == 0, f"{command}\n{answer.err}"
    (code,) = re.findall(r"^```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    exec(code, {})
    assert Path("copy/tokenizer.json").is_file()


def test_every_law_is_explained_and_nothing_else() -> None:
    explained = re.findall(r"^\| `([a-z-]+)` \| ", PAGE.partition("What `validate` proves")[2], re.MULTILINE)
    assert tuple(explained) == LAWS


def test_the_sizes_that_the_page_names_are_in_the_table() -> None:
    numbers = {int(each.replace(",", "")) for each in re.findall(r"\d{2},\d{3}(?= rows)", PAGE)}
    assert numbers
    assert numbers <= {rows for each in KNOWN_TOKENIZERS for rows in each.rows}
