"""Datasets of Hugging Face as tables: `hf:FOLDER` that save_to_disk wrote, or `hf:NAME[:CONFIG]` of the hub.

Splits that the dataset brings are kept: train is train, validation (else test) is validation. A hub that does
not answer is asked three times and is then one clear line, exit code 75.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torchstone._errors import DataError, Offline
from torchstone._optional import require
from torchstone.data.hub_reach import hub_answers, hub_is_forbidden
from torchstone.data.parquet import leaf_types
from torchstone.data.table import Row, Table, dotted

log = logging.getLogger(__name__)

PREFIX = "hf:"
TRIES = 3
FIRST_PAUSE_S = 1.0
VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test")
SAVED = ("dataset_info.json", "dataset_dict.json")


def is_saved_dataset(path: Path) -> bool:
    """Whether save_to_disk wrote this folder."""
    return path.is_dir() and any((path / name).is_file() for name in SAVED)


def open_dataset(name: str) -> list[Table]:
    """The splits as tables; a part named test stays unused where there is a validation part."""
    splits = open_splits(name)
    held_out = next((each for each in VALIDATION_NAMES if each in splits), None)
    if len(splits) > 1 and "train" not in splits:
        raise DataError(
            "the dataset has no split named train",
            where=name,
            why=f"its splits are {', '.join(splits)}",
            next="save the one that is meant with save_to_disk, and give that folder",
        )
    chosen = [
        (key, "train" if held_out else "") for key in splits if key in ("train", "") or len(splits) == 1
    ]
    if held_out and len(splits) > 1:
        chosen.append((held_out, "val"))
    return [_table(name, key, splits[key], split if len(splits) > 1 else "") for key, split in chosen]


def open_splits(name: str) -> dict[str, Any]:
    """The splits as the library gives them; one that is named "" is the whole."""
    plain = name.removeprefix(PREFIX)
    folder = Path(plain).expanduser()
    loaded = _from_disk(folder) if folder.is_dir() else _from_hub(plain)
    return dict(loaded) if hasattr(loaded, "keys") else {"": loaded}


def _table(name: str, key: str, dataset: Any, split: str) -> Table:
    label = f"{name}[{key}]" if key else name
    return Table(
        label,
        leaf_types(dataset.features.arrow_schema),
        partial(_rows, dataset, label),
        f"{dataset._fingerprint}/{len(dataset)}",
        split,
        label,
    )


def _rows(dataset: Any, label: str, columns: Sequence[str]) -> Iterator[Row]:
    tops = list(
        dict.fromkeys(each if each in dataset.column_names else each.split(".")[0] for each in columns)
    )
    names = {each: _class_names(dataset.features.get(each)) for each in columns}
    for number, row in enumerate(dataset.select_columns(tops), 1):
        values = [row[c] if c in row else dotted(row, c, label, f"row {number}") for c in columns]
        yield (
            f"row {number}",
            tuple(_named(value, names[column]) for value, column in zip(values, columns, strict=True)),
        )


def _class_names(feature: Any) -> Sequence[str] | None:
    names = getattr(feature, "names", None)
    return names if isinstance(names, list) else None


def _named(value: Any, names: Sequence[str] | None) -> Any:
    """A class by its name, so that numbers mean the same in every split."""
    return names[value] if names is not None and isinstance(value, int) and 0 <= value < len(names) else value


def _from_disk(folder: Path) -> Any:
    datasets = require("datasets", "data")
    if not is_saved_dataset(folder):
        raise DataError(
            "no dataset of Hugging Face lies here",
            where=str(folder),
            why=f"the folder holds neither {' nor '.join(SAVED)}",
            next="give a folder that save_to_disk wrote; files of text or tables need no hf:",
        )
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as problem:  # the library's errors have no common base
        raise DataError("the saved dataset cannot be opened", where=str(folder), why=_line(problem)) from None


def _from_hub(name: str) -> Any:
    datasets = require("datasets", "data")
    repository, _, config = name.partition(":")
    with _asking_only(datasets, _reach()):
        try:
            return datasets.load_dataset(repository, config or None)
        except Exception as problem:  # the library's errors have no common base
            if not _is_offline(problem):
                where = f"hf:{name}"
                raise DataError("the dataset cannot be loaded", where=where, why=_line(problem)) from None
            raise Offline(
                f"the hub does not answer, and the dataset {name} is not on this machine",
                why="HF_HUB_OFFLINE is set" if hub_is_forbidden() else _line(problem),
                next="try again later, or give a folder that save_to_disk wrote: hf:FOLDER",
            ) from None


def _reach() -> bool:
    """Whether the hub answers, asked a few times."""
    for attempt in range(TRIES):
        if hub_answers():
            return True
        if hub_is_forbidden() or attempt == TRIES - 1:
            break
        pause = FIRST_PAUSE_S * 2**attempt
        log.info("the hub does not answer; asked again in %g s", pause)
        time.sleep(pause)
    return False


@contextmanager
def _asking_only(datasets: Any, online: bool) -> Iterator[None]:
    """Without the hub, the library looks into its cache at once instead of retrying for minutes."""
    hub = require("huggingface_hub", "data")
    places = (datasets.config, hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place, value in zip(places, before, strict=True):
        place.HF_HUB_OFFLINE = value or not online
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _is_offline(problem: BaseException | None) -> bool:
    """Whether the network, not the dataset, is at fault; libraries wrap the cause."""
    seen = 0
    while problem is not None and seen < 10:
        name = type(problem).__name__
        if name in ("OfflineModeIsEnabled", "LocalEntryNotFoundError") or isinstance(
            problem, ConnectionError
        ):
            return True
        if name in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError", "ConnectionError"):
            return True
        problem, seen = problem.__cause__ or problem.__context__, seen + 1
    return False


def _line(problem: BaseException) -> str:
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[0][:300]}" if text else type(problem).__name__
