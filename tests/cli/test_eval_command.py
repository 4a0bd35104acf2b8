"""`torchstone eval`: the documented object, a readable table, the tasks of the harness, clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from zoo.documented import schema
from zoo.gist_api import ID

from torchstone import _optional
from torchstone.adapt.load import load
from torchstone.data.byte_tokenizer import ByteTokenizer

Typed = Callable[..., Any]


def test_the_object_is_the_documented_one_and_the_table_says_the_same(torchstone: Typed, run: Path) -> None:
    answer = torchstone("eval", run, "--json")
    assert answer.code == 0
    jsonschema.validate(answer.object, schema("torchstone.eval/1"))
    metrics = answer.object["metrics"]
    assert {"loss", "perplexity", "bits_per_byte", "accuracy"} <= metrics.keys()
    low, high = answer.object["intervals"]["loss"]
    assert low < metrics["loss"] < high
    table = torchstone("eval", run)
    assert table.code == 0
    for name in metrics:
        assert f"{name} " in table.out and f"{metrics[name]:.4f}" in table.out


def test_a_classifier_is_scored_by_the_names_of_its_classes(torchstone: Typed, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the extra [vision]")
    run = tmp_path / "digits"
    assert torchstone(
        "train", "zoo:lenet5", "--data", "builtin:digits", "--run-dir", run, "--max-steps", 30
    ).code == 0  # fmt: skip
    found = torchstone("eval", run, "--json").object
    jsonschema.validate(found, schema("torchstone.eval/1"))
    assert abs(found["recorded"]["difference"]) < 1e-6
    assert [row["name"] for row in found["per_class"]] == [str(digit) for digit in range(10)]
    assert sum(row["support"] for row in found["per_class"]) == found["counts"]["examples"]

    folder = tmp_path / "pictures"
    for name in ("7", "3"):  # fewer classes than the model knows, and not from 0
        (folder / name).mkdir(parents=True)
        image.new("L", (32, 32), int(name) * 20).save(folder / name / "one.png")
    found = torchstone("eval", run, "--data", folder, "--json").object
    truly = {row["name"]: row["support"] for row in found["per_class"] if row["support"]}
    assert truly == {"3": 1, "7": 1}
    (folder / "7").rename(folder / "seven")
    refused = torchstone("eval", run, "--data", folder)
    assert refused.code == 4 and "'seven'" in refused.err


@pytest.mark.parametrize(
    ("typed", "code", "word"),
    [
        (("zoo:gpt-nano",), 2, "--data"),
        (("zoo:gpt-nano", "--data", "nowhere.txt", "--tokenizer", "bytes"), 4, "no such file"),
        (("zoo:gpt-nano", "--lm-eval-path", "."), 2, "--lm-eval"),
        (("zoo:gpt-nano", "--lm-eval", "x", "--data", "y"), 2, "no effect"),
        ((f"gist:{ID}", "--data", "x.txt"), 3, "--trust"),
    ],
)
def test_refusals_say_what_to_type(torchstone: Typed, typed: tuple[str, ...], code: int, word: str) -> None:
    answer = torchstone("eval", *typed)
    assert (answer.code, answer.out) == (code, "") and word in answer.err


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
metadata: {{version: 1.0}}
"""
ASKED = {
    "cats": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "cats_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
""",
    "cats_words": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{said}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.mark.skipif(not _optional.available("lm_eval"), reason="needs the extra [eval]")
def test_tasks_of_the_harness_run_offline(torchstone: Typed, run: Path, tmp_path: Path) -> None:
    """One process for all, since its libraries warn while they are imported."""
    prompt, choices = "a cat sat on a long mat, and then it sat again", [" mat", " dog"]
    said = torchstone(
        "generate", run, "--prompt", prompt, "--temperature", 0, "--max-new-tokens", 6, "--json"
    )
    made = said.object["samples"][0]["text"].partition("\n")[0]
    (tmp_path / "tasks").mkdir()
    row = {"question": prompt, "choices": choices, "answer": 0, "said": made}
    (tmp_path / "tasks" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    for name, asked in ASKED.items():
        head = TASK.format(name=name, data=tmp_path / "tasks" / "rows.jsonl")
        (tmp_path / "tasks" / f"{name}.yaml").write_text(head + asked)
    command = [sys.executable, "-m", "torchstone", "eval", str(run), "--lm-eval", ",".join(ASKED), "--json"]
    done = subprocess.run(
        [*command, "--lm-eval-path", str(tmp_path / "tasks")],
        capture_output=True, text=True, check=False, env=offline(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, schema("torchstone.lm-eval/1"))
    results = answer["results"]

    model, tokenizer = load(run).module, ByteTokenizer()
    ids = [257, *tokenizer.encode(prompt)]
    # Windows of the model's 32 positions, each target once, the last window with all the context that fits.
    bits = bits_of(model, ids[:33], 32) + bits_of(model, ids[-33:], len(ids) - 33)
    assert results["cats_rolling"]["bits_per_byte,none"] == pytest.approx(bits / len(prompt), rel=1e-5)
    likelier = [bits_of(model, [*ids[-28:], *tokenizer.encode(each)], 4) for each in choices]
    assert results["cats"]["acc,none"] == float(likelier[0] < likelier[1])
    assert results["cats_words"]["exact_match,none"] == 1.0


def bits_of(model: torch.nn.Module, ids: list[int], num_targets: int) -> float:
    """Bits of the last `num_targets` of `ids`, each given all before it."""
    model.eval()
    shares = model(torch.tensor([ids[:-1]])).logits[0].detach().log_softmax(-1)
    wanted = shares[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return -float(wanted[-num_targets:].sum()) / 0.6931471805599453


def offline(home: Path) -> dict[str, str]:
    import os

    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")
    }
    return kept | {
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HOME": str(home),
    }
