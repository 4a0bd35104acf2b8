"""Adds new knobs, with their defaults, to first_defaults.json: `python tests/config/first_defaults.py`.

What is in the file stays: the ids of studies rest on it.
"""

from __future__ import annotations

import json
from pathlib import Path

from torchstone.config.knobs import knobs_of
from torchstone.train.config import SECTIONS

FILE = Path(__file__).with_suffix(".json")


def first_defaults() -> dict[str, object]:
    """As the code has them, in the form of JSON."""
    found = {key: knob.first_default for key, knob in knobs_of(SECTIONS).items() if knob.changes_result}
    return dict(json.loads(json.dumps(found)))


if __name__ == "__main__":
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    FILE.write_text(json.dumps(first_defaults() | known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
