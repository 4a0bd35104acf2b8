"""What a run was made of beyond its configuration: the facts by which two runs can be compared later.

Kept in the store as an event `facts` per session, so that a run that went on elsewhere says so. `torchstone
publish` refuses a comparison whose facts differ; it reads them here and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import DataError
from torchstone._seeds import preserved_rng
from torchstone.adapt.lora import num_parameters
from torchstone.data.dataset import ExampleDataset
from torchstone.data.loader import Loader
from torchstone.train.replay import ReplayedLoader

if TYPE_CHECKING:
    from torchstone.config.resolve import Resolved
    from torchstone.train.compiling import Compiled
    from torchstone.train.engine import Engine
    from torchstone.train.levers import Choice
    from torchstone.train.subject import Subject

SCHEMA = "torchstone.facts/1"
LOOKED_AT = 32
"""Examples whose content enters the fingerprint of data that has none of its own."""


def run_facts(
    environment: Mapping[str, Any],
    engine: Engine,
    subject: Subject,
    config: Resolved,
    compilation: Compiled,
    choice: Choice | None,
) -> dict[str, Any]:
    """One session of a run as it is: read from what was built, not from what was wished."""
    trainable, parameters = num_parameters(subject.module)
    examples, accumulation = _batch_size(subject, config), config.train.gradient_accumulation_steps
    return {
        "schema": SCHEMA,
        "first_step": engine.progress.step,
        "planned_steps": engine.pace.total_steps,
        "model": {
            "target": subject.model.get("target"),
            "class": subject.model.get("class"),
            "fingerprint": subject.model.get("fingerprint"),
            "parameters": parameters,
            "trainable": trainable,
        },
        "data": dict(subject.data) | {"tokens_per_epoch": subject.num_tokens},
        "batch": {
            "examples": examples,
            "accumulation": accumulation,
            "effective": None if examples is None else examples * accumulation,
        },
        "compile": {"mode": compilation.mode, "why": compilation.why},
        "levers": None
        if choice is None
        else {name: value for name, value in choice.to_dict().items() if name != "gains"},
        "hardware": _hardware(subject, environment),
        "environment": {name: value for name, value in environment.items() if name not in ("git", "command")},
        "git": _commit(environment.get("git")),
    }


def data_facts(batches: Any, held_out: Any, *, look: bool) -> dict[str, str | None]:
    """Fingerprints of the data that is learned from and of what is validated on; None: there is none.

    A loader counts with how many of its examples it gives. Examples that do not know their own content are
    known by their number, and, with `look`, by the content of some of them; `examples/N` says by number only.
    """
    return {"train": _fingerprint(batches, look), "validation": _fingerprint(held_out, look)}


def _fingerprint(data: Any, look: bool) -> str | None:
    if isinstance(data, ReplayedLoader):
        return f"examples/{len(data.loader.dataset)}"  # type: ignore[arg-type]
    if isinstance(data, Loader):
        name, whole = _fingerprint(data.dataset, look), len(data.dataset)
        return name if data.num_examples == whole else f"{name}, {data.num_examples} of them"
    if isinstance(data, ExampleDataset) and look:
        return f"{data.fingerprint}/{_content(data)}"
    return None if data is None else str(data.fingerprint)


def _content(dataset: ExampleDataset) -> str:
    digest = hashlib.sha256()
    count = min(len(dataset), LOOKED_AT)
    with preserved_rng(0):  # an example may be drawn anew each time
        try:
            for place in range(count):
                batch = dataset.batch([place * len(dataset) // count])
                for name, tensor in sorted(batch.items()):
                    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        except DataError:
            return "unreadable"  # the training tells which example it is, if it comes to it
    return digest.hexdigest()[:16]


def _batch_size(subject: Subject, config: Resolved) -> int | None:
    """Examples per micro-step over all ranks; a DataLoader brings its own."""
    if isinstance(subject.batches, ReplayedLoader):
        return subject.batches.loader.batch_size
    return int(config.train.batch_size)


def _hardware(subject: Subject, environment: Mapping[str, Any]) -> dict[str, Any]:
    device, name = subject.device, environment["cpu"]["model"]
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        name = f"{environment['platform']} {device.type}"
    return {
        "device": device.type,
        "name": name,
        "processes": subject.ranks.world,
        "threads": torch.get_num_threads(),
    }


def _commit(git: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without the text of the diff, which the run folder keeps."""
    return None if git is None else {name: value for name, value in git.items() if name != "diff"}
