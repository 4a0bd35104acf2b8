"""GLUE: its tasks, their columns, splits and official metrics, and their rows from a folder or the hub.

    data = read_glue("mnli", "data/glue")         # data/glue/mnli, saved by `datasets` or as JSON lines
    data["train"][0]                              # {"texts": ("...", "..."), "labels": 1}

A folder holds one folder per task: what `save_to_disk` of `datasets` wrote, or `train.jsonl`,
`validation.jsonl` with the columns of the original. Without a folder the hub is asked (`nyu-mll/glue`).
Source: Wang et al. 2018, arXiv:1804.07461, table 1; the metrics are those of the paper's evaluation script.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import DataError
from torchstone._registry import Registry
from torchstone.data.hub_rows import is_saved_dataset, open_splits

HUB = "nyu-mll/glue"
HIDDEN = -1
"""Label of the test rows: their answers are not public."""


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One task of the benchmark."""

    name: str
    texts: tuple[str, ...]
    """Columns: one sentence or two."""
    num_classes: int | None
    """None: a number is predicted."""
    metrics: tuple[str, ...]
    """Official ones, the first one ranks; their mean is the task's score."""
    summary: str
    scored: tuple[str, ...] = ("validation",)
    """Splits with public labels that are scored, each by itself."""
    trained_on: str | None = None
    """The task whose training rows it uses; None: its own."""

    @property
    def kind(self) -> str:
        return "regression" if self.num_classes is None else "classification"


GLUE: Registry[GlueTask] = Registry("GLUE task")
PAIR = ("sentence1", "sentence2")
for _task in (
    GlueTask(name="cola", texts=("sentence",), num_classes=2, metrics=("matthews",),
             summary="is the sentence grammatical"),
    GlueTask(name="sst2", texts=("sentence",), num_classes=2, metrics=("accuracy",),
             summary="is the film liked"),
    GlueTask(name="mrpc", texts=PAIR, num_classes=2, metrics=("accuracy", "f1"),
             summary="do both say the same"),
    GlueTask(name="qqp", texts=("question1", "question2"), num_classes=2, metrics=("accuracy", "f1"),
             summary="do both ask the same"),
    GlueTask(name="stsb", texts=PAIR, num_classes=None, metrics=("pearson", "spearman"),
             summary="how alike, from 0 to 5"),
    GlueTask(name="mnli", texts=("premise", "hypothesis"), num_classes=3, metrics=("accuracy",),
             summary="follows, open or contradicted",
             scored=("validation_matched", "validation_mismatched")),
    GlueTask(name="qnli", texts=("question", "sentence"), num_classes=2, metrics=("accuracy",),
             summary="does the sentence answer"),
    GlueTask(name="rte", texts=PAIR, num_classes=2, metrics=("accuracy",),
             summary="does it follow"),
    GlueTask(name="wnli", texts=PAIR, num_classes=2, metrics=("accuracy",),
             summary="does it follow, with a pronoun filled in"),
    GlueTask(name="ax", texts=("premise", "hypothesis"), num_classes=3, metrics=("matthews",),
             summary="the diagnostic set of mnli", scored=("test",), trained_on="mnli"),
):  # fmt: skip
    GLUE.add(_task)

Row = dict[str, Any]


def read_glue(name: str, source: str | Path | None = None) -> dict[str, list[Row]]:
    """Split -> rows of the splits that the task trains on and is scored on, as {"texts", "labels"}.

    Rows without a public label are left out; a split that has none at all is a DataError that says so.
    """
    task = GLUE.get(name)
    found = _splits(task.name, source)
    wanted = [*task.scored, *([] if task.trained_on else ["train"])]
    absent = [split for split in wanted if split not in found]
    if absent:
        raise DataError(
            f"GLUE {task.name} has no split named {', '.join(absent)} here",
            where=str(source or f"hf:{HUB}"),
            why=f"its splits are {', '.join(found) or 'none'}",
            next=f"load_dataset({HUB!r}, {task.name!r}).save_to_disk(FOLDER/{task.name}) makes such a folder",
        )
    rows = {split: list(_rows(task, split, found[split])) for split in wanted}
    if task.trained_on:
        rows["train"] = read_glue(task.trained_on, source)["train"]
    for split, each in rows.items():
        if not each:
            raise DataError(
                f"GLUE {task.name} has no labels in {split}",
                why="the answers of this split are not public",
                next="give a folder whose rows hold labels",
            )
    return rows


def _splits(name: str, source: str | Path | None) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    if source is None or str(source) == "hub":
        return open_splits(f"hf:{HUB}:{name}")
    folder = Path(source).expanduser() / name
    if is_saved_dataset(folder):
        return open_splits(f"hf:{folder}")
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError(
            f"GLUE {name} is not in this folder",
            where=str(folder),
            why="it holds neither a saved dataset nor files such as train.jsonl",
            next="give a folder with one folder per task, or --glue hub",
        )
    return {file.stem: _lines(file) for file in files}


def _lines(file: Path) -> list[Row]:
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as bad:
            raise DataError("this is not JSON", where=f"{file}:{number}", why=bad.msg) from None
    return found


def _rows(task: GlueTask, split: str, rows: Iterable[Mapping[str, Any]]) -> Iterable[Row]:
    for number, row in enumerate(rows, 1):
        texts = tuple(row.get(column) for column in task.texts)
        label = row.get("label")
        if not all(isinstance(text, str) for text in texts) or not isinstance(label, int | float):
            raise DataError(
                f"row {number} is no row of GLUE {task.name}",
                where=split,
                why=f"it needs {', '.join(task.texts)} and label; it has {', '.join(map(str, row))}",
            )
        if label == HIDDEN and task.num_classes is not None:
            continue
        if task.num_classes is not None and label not in range(task.num_classes):
            raise DataError(f"label {label} is out of range", where=f"{task.name}, {split}, row {number}")
        yield {"texts": texts, "labels": float(label) if task.num_classes is None else int(label)}
