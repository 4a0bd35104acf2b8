"""The schemas of docs/json.md, which the real output of the commands is held to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def schema(name: str) -> dict[str, Any]:
    page = (ROOT / "docs" / "json.md").read_text()
    found = re.search(rf"^## {re.escape(name)}\n.*?```json\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    assert found, f"docs/json.md has no schema {name}"
    return json.loads(found.group(1))
