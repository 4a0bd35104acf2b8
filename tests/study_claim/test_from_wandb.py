"""Exports of W&B are judged like runs of our own store."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_claim.recordings import Bench

from torchstone._errors import DataError, UsageError
from torchstone.study.claim.from_wandb import read_export
from torchstone.study.claim.publication import Publication
from torchstone.study.claim.recorded import Reading, RecordedRun

LOSS = Reading(metric="val/loss", direction="lower", at="end")


def exported(bench: Bench, arm: str, seed: int, loss: float) -> dict[str, Any]:
    """One run as `wandb.Api().runs` gives it."""
    return {
        "id": f"{arm}{seed}",
        "name": f"{arm} seed {seed}",
        "state": "finished",
        "tags": [arm, "study-1"],
        "group": arm,
        "config": {
            "_wandb": {"cli_version": "0.31.0", "t": {"1": seed}},
            "learning_rate": {"value": 1e-3 if arm == "candidate" else 1e-4, "desc": None},
            "batch_size": 8,
            "gradient_accumulation_steps": 4,
            "seed": seed,
            "dataset": "fineweb-edu",
            "max_iters": 500,
            "compile": True,
            "model": {"n_layer": 12, "n_head": 12},
        },
        "summary": {"val/loss": loss, "iter": 500, "_runtime": 3600.5, "_step": 700},
        "metadata": {
            "git": {"commit": bench.commit, "remote": "https://example.org/x.git"},
            "gpu": "NVIDIA B200",
            "gpu_count": 4,
            "python": "3.11.7",
        },
        "history": [
            {"val/loss": loss + 0.1},
            {"val/loss": loss - 0.02},
            {"val/loss": loss},
            {"train/loss": 1},
        ],
    }


def two_arms(bench: Bench) -> list[dict[str, Any]]:
    return [
        exported(bench, arm, seed, loss + 0.01 * seed + 0.001 * (seed * shift % 3))
        for arm, loss, shift in (("baseline", 3.0, 1), ("candidate", 2.6, 2))
        for seed in (1, 2, 3)
    ]


def judged(bench: Bench, runs: list[dict[str, Any]], more: str = "", **keys: str) -> Publication:
    (bench.folder / "runs.json").write_text(json.dumps(runs))
    arms = 'baseline = "wandb:runs.json:tag=baseline"\ncandidate = "wandb:runs.json:group=candidate"'
    return bench.judged(arms=f"{arms}\n{more}", **({"varies": '["learning_rate"]'} | keys))


def one(folder: Path, run: dict[str, Any], **places: str) -> RecordedRun:
    path = folder / "one.json"
    path.write_text(json.dumps({"runs": [run]}))
    return read_export(path, (), LOSS, places)[0]


def test_a_clean_export_is_judged(bench: Bench) -> None:
    found = judged(bench, two_arms(bench))
    assert not found.confounders, [each.what for each in found.confounders]
    assert found.verdict == "SUPPORTED BUT LIMITED"
    # W&B does not record these by itself.
    assert {each.name for each in found.limits} == {"cleanliness", "code", "evaluation", "stop-rule"}
    facts = found.to_dict()["arms"][0]["runs"][0]["facts"]
    assert facts["effective_batch"] == 32
    assert facts["steps"] == facts["planned_steps"] == 500
    assert facts["hardware"] == "4 x NVIDIA B200"
    assert facts["commit"] == bench.commit


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("configuration", lambda run: run["config"]["model"].update(n_layer=24)),
        ("effective-batch", lambda run: run["config"].update(batch_size=16)),
        ("effective-batch", lambda run: run["config"].update(effective_batch_size=1024)),
        ("hardware", lambda run: run["metadata"].update(gpu="A10G")),
        ("hardware", lambda run: run["metadata"].update(gpu_count=8)),
        ("data", lambda run: run["config"].update(dataset="openwebtext")),
        ("data", lambda run: run["config"].pop("dataset")),
        ("commit", lambda run: run["metadata"].pop("git")),
        ("tokens", lambda run: (run["summary"].update(iter=700), run["config"].update(max_iters=700))),
        ("schedule-end", lambda run: run["config"].update(max_iters=600)),
        ("compile-status", lambda run: run["config"].update(compile=False)),
        ("seeds", lambda run: run["config"].pop("seed")),
        ("unfinished", lambda run: run.update(state="crashed")),
        ("metric", lambda run: run["summary"].pop("val/loss")),
    ],
)
def test_a_confounded_export_is_refused_by_name(
    bench: Bench, name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    runs = two_arms(bench)
    for run in runs[3:]:
        change(run)
    assert {each.name for each in judged(bench, runs).confounders} == {name}


def test_a_batch_size_may_be_of_a_device_or_of_all(bench: Bench) -> None:
    """8 x 4 on 4 devices is 32 or 128, whichever is stated; 1024 is neither."""
    run = exported(bench, "baseline", 1, 3.0)
    for stated, statements in ((32, 1), (128, 1), (1024, 2)):
        run["config"]["effective_batch"] = stated
        assert len(one(bench.folder, run).statements["effective_batch"]) == statements
    del run["config"]["effective_batch"], run["config"]["batch_size"]
    run["config"]["per_device_train_batch_size"] = 8
    assert one(bench.folder, run).get("effective_batch") == 128


def test_the_claim_says_where_an_export_keeps_a_fact(bench: Bench) -> None:
    runs = two_arms(bench)
    for run in runs:
        run["config"]["rng"] = run["config"].pop("seed")
        run["config"]["git_clean"] = True
        run["summary"]["seen"] = 12_700.0
    assert {each.name for each in judged(bench, runs).confounders} >= {"seeds"}
    places = '[wandb]\nseed = "config.rng"\nclean = "config.git_clean"\ntokens = "summary.seen"'
    found = judged(bench, runs, places)
    assert not found.confounders
    assert "cleanliness" not in {each.name for each in found.limits}
    assert found.arms[0].runs[2].get("seed") == 3


def test_best_is_read_from_the_history_or_from_the_summary(bench: Bench) -> None:
    run = exported(bench, "baseline", 1, 3.0)
    path = bench.folder / "one.json"
    path.write_text(json.dumps([run]))
    best = Reading(metric="val/loss", direction="lower", at="best")
    assert read_export(path, (), best, {})[0].get("value") == pytest.approx(2.98)
    run["history"], run["summary"]["val/loss"] = [], {"min": 2.5, "last": 3.0}
    path.write_text(json.dumps([run]))
    assert read_export(path, (), best, {})[0].get("value") == 2.5
    assert read_export(path, (), LOSS, {})[0].get("value") == 3.0


def test_perplexity_follows_from_the_loss(bench: Bench) -> None:
    path = bench.folder / "one.json"
    path.write_text(json.dumps([exported(bench, "baseline", 1, 3.0)]))
    reading = Reading(metric="val/perplexity", direction="lower", at="end")
    assert read_export(path, (), reading, {})[0].get("value") == pytest.approx(20.0855, abs=1e-3)


def test_the_table_of_the_manual_reads_the_same(bench: Bench) -> None:
    """`summary`, `config` and `name` as columns that hold Python objects, and pandas' nameless index."""
    run = exported(bench, "baseline", 1, 3.0)
    path = bench.folder / "project.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "summary", "config", "name", "state", "metadata", "tags"])
        table.writerow(
            [
                "0",
                run["summary"],
                run["config"] | {"prompt": "x" * 200_000},
                "baseline1",
                "finished",
                json.dumps(run["metadata"]),
                "baseline,x",
            ]
        )
    (found,) = read_export(path, [("tag", "baseline")], LOSS, {})
    expected = one(bench.folder, run)
    assert found.config == expected.config | {"prompt": "x" * 200_000}
    assert {name: found.get(name) for name in found.statements} == {
        name: expected.get(name) for name in expected.statements
    }


def test_runs_without_a_name_are_not_one_run(bench: Bench) -> None:
    (bench.folder / "flat.csv").write_text("config.seed,summary.val/loss\n1,2.5\n2,2.6\n")
    found = bench.judged(arms='baseline = "wandb:flat.csv"\ncandidate = "wandb:flat.csv:config.seed=2"')
    assert [run.get("value") for run in found.arms[0].runs] == [2.5, 2.6]
    assert found.arms[1].runs[0].run_id == found.arms[0].runs[1].run_id


def test_columns_of_one_value_each(bench: Bench) -> None:
    path = bench.folder / "flat.csv"
    path.write_text(
        "id,state,config.seed,config.model.n_layer,config.compile,summary.val/loss,config.note\n"
        "a,finished,3,12,True,2.5,\n"
    )
    (found,) = read_export(path, (), LOSS, {})
    assert (found.get("seed"), found.get("value"), found.get("compile_status")) == (3, 2.5, "True")
    assert found.config == {"seed": 3, "model.n_layer": 12, "compile": True}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("x.json", "{", "not JSON"),
        ("x.json", "[]", "holds no runs"),
        ("x.json", "[3]", "no object"),
        ("x.json", '[{"config": "{broken"}]', "config of a run is no object"),
        ("x.csv", "Name,lr,loss\na,1,2\n", "does not say whether 'lr' is configuration or a result"),
    ],
)
def test_what_is_no_export_is_told(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=told):
        read_export(tmp_path / name, (), LOSS, {})


def test_a_selection_that_finds_nothing_is_told(bench: Bench) -> None:
    path = bench.folder / "runs.json"
    path.write_text(json.dumps(two_arms(bench)))
    assert len(read_export(path, [("config.seed", "2")], LOSS, {})) == 2
    for wanted in ([("tag", "nothing")], [("color", "red")]):
        with pytest.raises(UsageError):
            read_export(path, wanted, LOSS, {})
    with pytest.raises(DataError, match="cannot be read"):
        read_export(bench.folder / "absent.json", (), LOSS, {})


def test_an_export_is_not_changed_by_reading(bench: Bench) -> None:
    runs = two_arms(bench)
    before = copy.deepcopy(runs)
    judged(bench, runs)
    assert runs == before
