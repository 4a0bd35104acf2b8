"""What a configuration comes to, told without the configuration: the outcome of a real, tiny job.

    outcome({"optim.beta1": 0.5}, place)     # trains some six steps of a tiny model, in 0.2 s

An outcome holds what somebody can observe who never sees the settings: weights, rows of the store, files,
calls of modules with the shapes that they got, switches of torch while they ran, processes. Texts that repeat
settings (config.json, the start block, warnings) are left out, so that no key is alive by its echo alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from torchstone._errors import TorchstoneError
from torchstone.checks.run import CheckJob
from torchstone.checks.run import run as run_check
from torchstone.config.knobs import Knob, knobs_of
from torchstone.config.resolve import Resolved, resolve
from torchstone.config.schema import Section
from torchstone.config.values import BadValue, check, parse, unmet
from torchstone.study.config import SECTIONS
from torchstone.tracking.marks import marks
from torchstone.tracking.store import Store
from torchstone.train.devices import processes_to_launch
from torchstone.train.hooks import CheckpointInfo, StartInfo, StepInfo
from torchstone.train.run import TrainJob
from torchstone.train.run import run as run_training

ORDINARY: dict[str, Any] = {
    "data.source": "{place}/text",
    "data.tokenizer": "bytes",
    "data.sequence_length": 16,
    "data.max_train_samples": 12,
    "data.max_val_samples": 4,
    "model.max_seq_len": 24,
    "model.d_model": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "optim.learning_rate": 0.01,
    "train.epochs": 2,
    "tracking.dashboard": False,
    "check.only": ("batch-leak", "eval-determinism"),
}
"""The job in which a key is looked at, unless a scenario says otherwise. `{place}` is the test's folder."""

_TIMED = ("tokens_per_s", "seconds", "_s", "time")
"""Endings of rows that a clock has a part in."""


@dataclass(frozen=True)
class Outcome:
    """Rows by (key, step), the trained weights, and by name everything else that is `seen`."""

    rows: Mapping[tuple[str, int], float] = field(default_factory=dict)
    weights: str | None = None
    """Digest of the trained model; None where there is none."""
    seen: Mapping[str, Any] = field(default_factory=dict)

    def differs(self, other: Outcome) -> list[str]:
        """Names of what is not the same."""
        names = [name for name in ("rows", "weights") if getattr(self, name) != getattr(other, name)]
        return names + [name for name in self.seen if self.seen[name] != other.seen.get(name)]

    def contradicts(self, other: Outcome) -> list[str]:
        """Where two runs that shall compute the same disagree: rows of both, weights of two that ended."""
        both = self.rows.keys() & other.rows.keys()
        found = [
            f"{key} at step {step}"
            for key, step in sorted(both)
            if self.rows[key, step] != other.rows[key, step]
        ]
        if self.weights and other.weights and self.weights != other.weights:
            found.append("weights")
        return found


def outcome(
    values: Mapping[str, Any], place: Path, sections: Mapping[str, type[Section]] = SECTIONS
) -> Outcome:
    """Of the ordinary job with these values in place of its own."""
    wanted = ORDINARY | dict(values)
    wanted = {key: _placed(value, place) for key, value in wanted.items()}
    settings = resolve(sections).with_values(wanted)
    if any(key.startswith("check.") for key in values):
        return _of_check(settings, place)
    return _of_training(settings.select(name for name in sections if name not in ("check", "study")), place)


def _placed(value: Any, place: Path) -> Any:
    return value.replace("{place}", str(place)) if isinstance(value, str) else value


# --- training -----------------------------------------------------------------------------------

_NUMBER = itertools.count()


def _of_training(settings: Resolved, place: Path) -> Outcome:
    launch = _launch(settings)
    if launch != "1":  # several processes, which this one would start
        return Outcome(seen={"launch": launch})
    run_dir = place / "runs" / str(next(_NUMBER))
    watch = _Watch()
    job = TrainJob(settings, run_dir=run_dir, device="cpu", hooks=(watch,), cache_dir=place / "cache")
    seen: dict[str, Any] = {"launch": launch}
    with watch.watching():
        try:
            result = run_training(job)
            seen["status"] = result.status
        except TorchstoneError as error:
            seen["status"] = f"{type(error).__name__}: {error.what}"
            if not run_dir.is_dir():
                raise
    seen |= watch.seen
    if not run_dir.is_dir():
        return Outcome(seen=seen)
    seen["files"] = sorted(str(each.relative_to(run_dir)) for each in run_dir.rglob("*"))
    weights = run_dir / "model.safetensors"
    with Store.open(str(place / "runs" / "store.db")) as store:
        run_id = json.loads((run_dir / "run.json").read_text())["run_id"]
        seen["name"], seen["tags"] = store.run(run_id).name, marks(store, [run_id])[run_id].tags
        rows = {
            (row.key, row.step): row.value for row in store.metrics(run_id) if not row.key.endswith(_TIMED)
        }
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
    return Outcome(rows=rows, weights=digest, seen=seen)


def _launch(settings: Resolved) -> str:
    try:
        return str(processes_to_launch(settings.train, "cpu", environ={}))
    except TorchstoneError as error:
        return error.next


class _Watch:
    """A hook that also looks at modules being called and at torch's switches while they are."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.switches: set[tuple[Any, ...]] = set()
        self.compiled: list[dict[str, Any]] = []
        self.saves: list[tuple[int, bool, bool]] = []
        self.start: dict[str, Any] = {}
        self.steps: list[float] = []
        self.helpers = 0

    @property
    def seen(self) -> dict[str, Any]:
        return {
            "calls": dict(self.calls),
            "switches": self.switches,
            "compiled": self.compiled,
            "saves": self.saves,
            "start": self.start,
            "learning rates": self.steps,
            "helpers": self.helpers,
        }

    def on_start(self, info: StartInfo) -> None:
        self.start = {
            "parameters": info.parameters,
            "trainable": info.trainable,
            "total_steps": info.total_steps,
            "steps_per_epoch": info.steps_per_epoch,
            "has_validation": info.has_validation,
        }

    def on_step(self, info: StepInfo) -> None:
        self.steps.append(info.learning_rate)
        self.helpers = max(self.helpers, len(psutil.Process().children()))

    def on_checkpoint(self, info: CheckpointInfo) -> None:
        self.saves.append((info.step, info.is_best, info.blocked_s < info.seconds))

    def _called(self, module: Any, inputs: tuple[Any, ...], _: Any) -> None:
        if torch.compiler.is_compiling():
            return
        shapes = [tuple(each.shape) for each in inputs if isinstance(each, torch.Tensor)]
        extra = getattr(module, "p", "")  # of a dropout
        self.calls[f"{type(module).__name__} {extra} {shapes} {module.training}"] += 1
        on = torch.is_autocast_enabled("cpu")
        self.switches.add(
            (
                torch.are_deterministic_algorithms_enabled(),
                torch.get_autocast_dtype("cpu") if on else None,
            )
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Modules are watched, and what is compiled takes the quick way: real capture, no generated code."""
        compile_ = torch.compile

        def noted(model: Any, **options: Any) -> Any:
            self.compiled.append(options)
            rest = {name: value for name, value in options.items() if name != "mode"}
            return compile_(model, backend="eager", **rest)

        handle = torch.nn.modules.module.register_module_forward_hook(self._called)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "compile", noted)
            try:
                yield
            finally:
                handle.remove()


# --- checks -------------------------------------------------------------------------------------


def _of_check(settings: Resolved, place: Path) -> Outcome:
    try:
        report = run_check(CheckJob.of(settings, device="cpu"))
    except TorchstoneError as error:
        return Outcome(seen={"status": f"{type(error).__name__}: {error.what}"})
    found = {each.id: (each.status, each.measured, each.why, str(each.details)) for each in report.checks}
    return Outcome(seen={"checks": found})


# --- the law ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How a key is looked at where the ordinary job cannot show it."""

    base: Mapping[str, Any] = field(default_factory=dict)
    """Values of other keys (and of this one), on both sides."""
    values: Sequence[Any] = ()
    """Values to try; none: made from the knob's kind and range."""
    may_fail: bool = False
    """A run that ends in an error is an outcome like another."""
    needs: str | None = None
    """A package without which the key cannot be tried, with the line that installs it."""
    proved_by: str | None = None
    """`path::test` of the test that shows the effect, where one process on a CPU cannot."""


def base_for(key: str, knobs: Mapping[str, Knob], scenario: Scenario) -> dict[str, Any]:
    """The scenario's values, and what the key's conditions need on top of the ordinary job."""
    base = dict(scenario.base)
    defaults = {name: knob.default for name, knob in knobs.items()}
    for _ in range(len(knobs)):
        missing = unmet(key, knobs, defaults | ORDINARY | base)
        if not missing:
            break
        condition, target = missing[0], knobs[missing[0].key]
        texts = condition.values
        if condition.negated:
            candidates = [str(each) for each in others(target, target.default)]
            texts = tuple(
                text for text in (*target.alternatives, *candidates) if text not in condition.values
            )
        base[condition.key] = parse(target, texts[0])
    return base


def others(knob: Knob, now: Any) -> list[Any]:
    """Legal values that are not `now`, the far ones first."""
    made: list[Any] = [None]
    if knob.choices:
        made = [*knob.choices, None]
    elif knob.many:
        made = [({"int": 2, "float": 0.25, "str": "x"}[knob.kind],), ()]
    elif knob.kind == "bool":
        made = [True, False, None]
    elif knob.kind == "int":
        made = [*((now * 4, now + 1) if now else ()), 8, 5, 2, 1, 0, None]
    elif knob.kind == "float":
        made = [*((now * 10, now / 10) if now else ()), 0.5, 0.9, 2.0, 0.0, None]
    else:
        made = [f"{now or ''}x", None]
    found: list[Any] = []
    for each in made:
        try:
            value = check(knob, each)
        except BadValue:
            continue
        if value != now and value not in found:
            found.append(value)
    return found


HELP = """\
nothing that can be observed of a job changed with {key} (tried {tried}).
Is it read at all? If not, take it out. If it needs another model or other data to show, give it a Scenario in
SCENARIOS (tests/laws/test_liveness.py). If it is to change nothing, mark it cosmetic=True in its Section."""


def verdict(
    key: str, place: Path, scenario: Scenario, sections: Mapping[str, type[Section]] = SECTIONS
) -> str | None:
    """None if the key obeys the law, else what is wrong."""
    knobs = knobs_of(sections)
    knob, base = knobs[key], base_for(key, knobs, scenario)
    now = base.get(key, ORDINARY.get(key, knob.default))
    before = known(base, place, sections, about=key)
    tried, refused = [], []
    for value in scenario.values or others(knob, now)[:4]:
        try:
            after = outcome(base | {key: value}, place, sections)
        except TorchstoneError as error:
            refused.append(f"{value!r}: {error.what}")
            continue
        if not scenario.may_fail and "Error" in str(after.seen.get("status")):
            refused.append(f"{value!r}: {after.seen['status']}")
            continue
        tried.append(value)
        differs = after.differs(before)
        if knob.cosmetic and differs:
            return f"{key} is marked cosmetic, yet {value!r} changes {', '.join(differs)}"
        if not knob.changes_result and (wrong := after.contradicts(before)):
            return f"{key} is marked changes_result=False, yet {value!r} changes {', '.join(wrong)}"
        if differs:
            return None
    if knob.cosmetic and tried:
        return None
    if not tried:
        return f"every other value of {key} was refused; give it a Scenario: {'; '.join(refused)}"
    return HELP.format(key=key, tried=", ".join(map(repr, tried)))


_KNOWN: dict[str, Outcome] = {}


def known(base: Mapping[str, Any], place: Path, sections: Mapping[str, type[Section]], about: str) -> Outcome:
    """The outcome before the change, made once for each base."""
    kind = about.partition(".")[0] == "check"
    name = repr((sorted(base.items(), key=str), kind, sorted(sections), str(place)))
    if name not in _KNOWN:
        # A base without a check's key is told apart from a training job by naming one.
        _KNOWN[name] = outcome(
            base | ({"check.seed": base.get("check.seed", 0)} if kind else {}), place, sections
        )
    return _KNOWN[name]
