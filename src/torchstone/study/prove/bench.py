"""How the proof gets its models and engines: by the doors of a training job. A test may put its own in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone.adapt.load import LoadedModel, load
from torchstone.config.resolve import Resolved
from torchstone.train.assembly import follow
from torchstone.train.engine import Engine
from torchstone.train.lora import with_lora
from torchstone.train.signals import SignalWatch
from torchstone.train.subject import Subject

if TYPE_CHECKING:
    from torchstone.tracking.checkpoint import Checkpoint


def load_model(arm: str, settings: Resolved) -> LoadedModel:
    """The model that a training job with `settings` would train; `arm` is whose it is."""
    task = None if settings.data.task == "auto" else settings.data.task
    loaded = load(
        settings.model.target,
        task=task,
        overrides=settings.model.overrides(),
        seed=settings.train.random_seed,
    )
    return with_lora(loaded, settings)[0]


def model_of(arm: str, settings: Resolved) -> str:
    """A name of the model that `load_model` gives: of all that is not told apart from it on the way there."""
    rooms = ("model", "data", "train")
    return repr(
        sorted((key, value) for key, value in settings.plain.items() if key.partition(".")[0] in rooms)
    )


def make_engine(
    arm: str, subject: Subject, settings: Resolved, run_dir: Path, checkpoint: Checkpoint | None
) -> Engine:
    """The engine that a training job would run, without rows and watchers."""
    return follow(subject, settings, run_dir, checkpoint, SignalWatch())


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the proof gets what it measures."""

    load: Callable[[str, Resolved], LoadedModel] = load_model
    """(id of an arm, settings) -> its model; also asked for one `without_memory`."""
    model_of: Callable[[str, Resolved], str] = model_of
    """(id of an arm, settings) -> a name that only arms share whose models are the same."""
    engine: Callable[[str, Subject, Resolved, Path, Checkpoint | None], Engine] = make_engine
    """(id of an arm, subject, settings, folder, checkpoint to go on from) -> its engine."""
