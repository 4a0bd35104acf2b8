"""Where each key of a TOML text stands; tomllib keeps no lines, and a mistake is told with file:line."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone._errors import ConfigError

TomlPath = tuple[str | int, ...]
"""("step", 0, "set") is `set` of the first [[step]]."""

_KEY = re.compile(r"""[ \t]*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
_VALUE = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[][{}]|\n|[^\s"'\#\]\[{}]+|\s''',
    re.DOTALL,
)


class Lines:
    """`lines[path]` is the line of a key, or of the nearest table above it."""

    def __init__(self, text: str) -> None:
        """`text` must be TOML that tomllib takes."""
        self._lines: dict[TomlPath, int] = {}
        self._text = text
        self._ends = [each.start() for each in re.finditer("\n", text)]
        self._scan()

    def __getitem__(self, path: TomlPath) -> int:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _scan(self) -> None:
        text, place = self._text, 0
        table: TomlPath = ()
        counts: dict[TomlPath, int] = {}
        while found := re.compile(r"(?:\s|#[^\n]*)+|[^\s#]").match(text, place):
            if found[0][0] in " \t\r\n#":
                place = found.end()
                continue
            line = bisect_right(self._ends, place) + 1
            if text[place] == "[":
                is_array = text.startswith("[[", place)
                keys, place = self._keys(place + (2 if is_array else 1))
                table = self._latest(keys, counts)
                if is_array:
                    counts[table] = counts.get(table, -1) + 1
                    self._lines.setdefault(table, line)
                    table = (*table, counts[table])
                self._lines.setdefault(table, line)
                place += 2 if is_array else 1
            else:
                keys, place = self._keys(place)
                self._lines.setdefault((*table, *keys), line)
                place = self._behind_value(place + 1)

    def _keys(self, place: int) -> tuple[list[str], int]:
        """The parts of a dotted key, and the place behind them."""
        parts = []
        while found := _KEY.match(self._text, place):
            part = found[1]
            parts.append(tomllib.loads(f"x = {part}")["x"] if part[0] in "\"'" else part)
            place = found.end()
            if self._text[place : place + 1] != ".":
                break
            place += 1
        return parts, place

    def _latest(self, keys: list[str], counts: Mapping[TomlPath, int]) -> TomlPath:
        """The path of a header, inside the newest entry of each array of tables on the way."""
        path: TomlPath = ()
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            if number < len(keys) and path in counts:
                path = (*path, counts[path])
        return path

    def _behind_value(self, place: int) -> int:
        depth = 0
        while found := _VALUE.match(self._text, place):
            place = found.end()
            if found[0] in ("[", "{"):
                depth += 1
            elif found[0] in ("]", "}"):
                depth -= 1
            elif found[0] == "\n" and depth == 0:
                break
        return place


def read_toml(path: Path, label: str = "") -> tuple[dict[str, Any], Lines]:
    """The data of a file and where it stands; `label` is its name in messages."""
    label = label or str(path)
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        return tomllib.loads(text), Lines(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ConfigError(
            "this is not TOML", where=f"{label}:{line[1]}" if line else label, why=str(error)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {label}", why=str(error)) from None
