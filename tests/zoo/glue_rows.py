"""A tiny set in the shape of GLUE: every task, split and column; letters tell the answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from torchstone.data.glue import GLUE, GlueTask

SIGNS = ("zzz", "qqq", "xxx")
"""What tells each class."""
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "met", "one", "man")
TRAIN, SCORED = 96, 48


def write_glue(folder: Path, *names: str) -> Path:
    """`folder`/TASK/SPLIT.jsonl of these tasks, or of all."""
    for task in GLUE:
        if names and task.name not in names:
            continue
        place = folder / task.name
        place.mkdir(parents=True)
        splits = {"train": TRAIN} if task.trained_on is None else {}
        for number, (split, count) in enumerate((splits | dict.fromkeys(task.scored, SCORED)).items()):
            lines = [json.dumps(row) for row in rows(task, count, seed=number)]
            (place / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def rows(task: GlueTask, count: int, seed: int = 0) -> list[dict[str, Any]]:
    lot = random.Random(f"{task.name}/{seed}")
    made = []
    for number in range(count):
        texts = [" ".join(lot.choices(WORDS, k=4)) for _ in task.texts]
        if task.num_classes is None:
            label: float = lot.randrange(6)
            texts[-1] += " " + "z" * int(3 * label) + "q" * int(15 - 3 * label)
        else:
            label = lot.randrange(task.num_classes)
            texts[-1] += f" {SIGNS[int(label)]}"
        row = dict(zip(task.texts, texts, strict=True))
        made.append(row | {"label": label if task.num_classes else float(label), "idx": number})
    return made
