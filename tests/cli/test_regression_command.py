"""`torchstone runs compare A B --regression`: exit code, documented object, clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
from zoo.documented import schema

Typed = Callable[..., Any]


def test_a_worse_run_exits_1_and_a_better_one_0(torchstone: Typed, run: Path, tmp_path: Path) -> None:
    start = tmp_path / "run" / "checkpoints" / "step-3"
    worse = tmp_path / "worse"
    text = tmp_path / "text.txt"
    answer = torchstone(
        "train", "zoo:gpt-nano", "--data", text, "--set", "data.tokenizer=bytes", "--max-steps", 1,
        "--run-dir", worse, "-q", "--set", "model.d_model=16", "--set", "model.num_layers=1", "--set",
        "model.num_heads=2", "--set", "model.max_seq_len=32", "--set", "tracking.dashboard=n", "--set",
        "optim.learning_rate=1e-9",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    compared = ("runs", "compare", "--regression", "--data", text)
    found = torchstone(*compared, run, worse, "--json")
    assert found.code == 1 and found.object["verdict"] == "regressed"
    jsonschema.validate(found.object, schema("torchstone.regression/1"))
    back = torchstone(*compared, worse, start)
    assert back.code == 0 and back.out.startswith("improved") and "bits_per_byte" in back.out
    few = torchstone(*compared[:3], run, worse, "--json")  # the held-out part has a dozen blocks
    assert few.code == 1 and "too few" in few.object["what"]
    assert torchstone(*compared, run).code == 2
    assert torchstone("runs", "compare", run, worse, "--data", text).code == 2
