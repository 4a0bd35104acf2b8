"""Two small study files."""

from __future__ import annotations

from pathlib import Path

ABLATION = """\
[study]
name = "mine"
kind = "ablation"
base = "defconfigs/gpt-nano"
seeds = [1, 2]

[[step]]
id = "0"

[[step]]
id = "1"
parent = "0"
set = { "model.d_ff" = 64 }
claims = { parameters = "<0" }
"""
MATRIX = """\
[study]
name = "grid"
kind = "matrix"

[[axis]]
name = "width"
[axis.values]
narrow = { "model.d_ff" = 64 }
wide = { "model.d_ff" = 256 }

[[axis]]
name = "drop"
key = "model.dropout"
values = [0.0, 0.1]

[[rule]]
drop = { width = "wide", drop = [0.1] }
reason = "wide ones are not dropped"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path
