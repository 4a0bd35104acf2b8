"""The proof of a study: all arms in one process, on full sizes without memory and on small twins.

proof = prove(plan)
proof.verdict, proof.to_dict()
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from torchstone._errors import ModelError
from torchstone.config.knobs import knobs_of
from torchstone.study.plan import Plan
from torchstone.study.prove.bench import Bench
from torchstone.study.prove.evidence import ClaimResult, Evidence
from torchstone.study.prove.full_size import FullSize, Operations, measure_full_size, without_memory
from torchstone.study.prove.identity import alike
from torchstone.study.prove.judge import judge
from torchstone.study.prove.trial import Examined, Trial, try_out
from torchstone.study.prove.twin import (
    UNSCALED_AT_MOST,
    Scale,
    scale_of,
    sequence_length,
    sizes_of,
    steps_of,
    twin_settings,
)
from torchstone.study.records import Arm
from torchstone.tracking.records import Status, verdict

SCHEMA = "torchstone.study-check/1"
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StepProof:
    """What was found of one arm."""

    id: str
    parent: str | None
    name: str
    fingerprint: str | None
    """Of the resolved model and recipe; the same for two arms that are the same thing."""
    status: Status
    parameters: int | None
    flops: int | None
    kv_bytes_per_token: int | float | None
    claims: tuple[ClaimResult, ...]
    error: Exception | None = None
    """What was raised, for whoever debugs it."""

    @property
    def broken(self) -> list[ClaimResult]:
        return [each for each in self.claims if not each.holds]

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "parent": self.parent,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "status": self.status,
            "parameters": self.parameters,
            "flops": self.flops,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "claims": [each.to_dict() for each in self.claims],
        }


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found of a study."""

    study: str
    kind: str
    steps: tuple[StepProof, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        return verdict([each.status for each in self.steps])

    def __getitem__(self, id_: str) -> StepProof:
        return next(each for each in self.steps if each.id == id_)

    def to_dict(self) -> dict[str, Any]:
        """The object that `study check --json` prints."""
        return {
            "schema": SCHEMA,
            "study": self.study,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 3),
            "steps": [each.to_dict() for each in self.steps],
            "notes": list(self.notes),
        }


def prove(plan: Plan, bench: Bench | None = None, progress: Progress | None = None) -> Proof:
    """Measure every claim of the chosen arms. Arms that they are measured against are tried out too."""
    began = time.perf_counter()
    bench = bench or Bench()
    tell = progress or (lambda text: None)
    chosen = {each.id for each in plan.chosen_arms}
    with _quietly():
        full, broken = full_sizes(plan, bench, tell)
        scale = _scale(plan, full)
        wanted = _with_parents(plan, chosen)
        examined: Examined = {}
        evidence = {
            arm.id: _evidence(arm, full[arm.id], scale, bench, examined, tell)
            for arm in wanted
            if arm.id in full
        }
        steps = []
        for arm in wanted:
            if arm.id in broken:
                if arm.id in chosen:
                    steps.append(_unbuilt(arm, broken[arm.id]))
            elif arm.id in chosen:
                steps.append(_proved(evidence[arm.id], evidence))
    tell("")
    return Proof(
        study=plan.study.name,
        kind=plan.study.kind,
        steps=tuple(steps),
        seconds=time.perf_counter() - began,
        notes=tuple(scale.notes),
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """One thread, which is quicker for small models, and no warnings of broken ones."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _with_parents(plan: Plan, chosen: set[str]) -> list[Arm]:
    wanted = chosen | {arm.parent for arm in plan.arms if arm.id in chosen and arm.parent is not None}
    return [arm for arm in plan.arms if arm.id in wanted]


def full_sizes(plan: Plan, bench: Bench, tell: Progress) -> tuple[dict[str, FullSize], dict[str, Exception]]:
    """All arms at full size: the scale of the twins comes from all of them."""
    found: dict[str, FullSize] = {}
    broken: dict[str, Exception] = {}
    by_model: dict[str, FullSize] = {}
    known = Operations()
    for number, arm in enumerate(plan.arms, 1):
        tell(f"sizes {number}/{len(plan.arms)} {arm.id}")
        model = bench.model_of(arm.id, arm.settings)
        try:
            if model not in by_model:
                with without_memory():
                    loaded = bench.load(arm.id, arm.settings)
                length = sequence_length(arm.settings, loaded.config.get("max_seq_len"))
                by_model[model] = measure_full_size(loaded, length, known)
            found[arm.id] = by_model[model]
        except Exception as error:
            broken[arm.id] = error
    return found, broken


def _scale(plan: Plan, full: dict[str, FullSize]) -> Scale:
    sizes = [sizes_of(plan.arm(id_).settings, each.config) for id_, each in full.items()]
    return scale_of(sizes, knobs_of(plan.base.sections))


def _evidence(
    arm: Arm, full: FullSize, scale: Scale, bench: Bench, examined: Examined, tell: Progress
) -> Evidence:
    tell(f"proving {arm.id} {arm.name}")
    sizes = sizes_of(arm.settings, full.config)
    twin = twin_settings(arm.settings, sizes, scale, steps_of(arm.settings))
    if "model.d_model" not in sizes and full.parameters > UNSCALED_AT_MOST:
        trial = Trial(broken={"build": _too_large(arm, full)})
    else:
        trial = try_out(arm.id, twin, bench, examined)
    return Evidence(
        arm=arm,
        full=full,
        twin=twin,
        trial=trial,
        scale=scale,
        bench=bench,
    )


def _too_large(arm: Arm, full: FullSize) -> Exception:
    return ModelError(
        f"{arm.settings.model.target} has {full.parameters:,} parameters and no sizes that could be smaller",
        why=f"its twin is trained on the CPU, which is for {UNSCALED_AT_MOST:,} parameters at most",
        next="give a smaller model of the same kind as the base of the study",
    )


def _proved(own: Evidence, evidence: dict[str, Evidence]) -> StepProof:
    arm = own.arm
    parent = evidence.get(arm.parent or "")
    earlier = itertools.takewhile(lambda each: each is not own, evidence.values())
    same = next((each for each in earlier if alike(own, each)), None)
    claims = tuple(judge(own, parent, same.arm.id if same else None))
    return StepProof(
        id=arm.id,
        parent=arm.parent,
        name=arm.name,
        fingerprint=_fingerprint(same or own),
        status="pass" if all(each.holds for each in claims) else "fail",
        parameters=own.full.parameters,
        flops=own.full.flops,
        kv_bytes_per_token=own.full.kv_bytes_per_token,
        claims=claims,
        error=next(iter(own.trial.broken.values()), None),
    )


def _unbuilt(arm: Arm, error: Exception) -> StepProof:
    measured = f"{type(error).__name__}: {error}".splitlines()[0]
    claim = ClaimResult(claim="build", expected="the model is built", measured=measured, holds=False)
    return StepProof(
        id=arm.id, parent=arm.parent, name=arm.name, fingerprint=None, status="error",
        parameters=None, flops=None, kv_bytes_per_token=None, claims=(claim,), error=error,
    )  # fmt: skip


def _fingerprint(each: Evidence) -> str:
    """Names and shapes at full size, the recipe, and what the twin came to."""
    trial = each.trial
    plain = {
        key: value for key, value in each.arm.settings.plain.items() if key.startswith(("data.", "train."))
    }
    facts = {
        "shapes": {name: list(shape) for name, shape in each.full.shapes.items()},
        "recipe": plain,
        "optimizer": trial.optimizer,
        "rates": [f"{rate:.6g}" for rate in trial.rates],
        "output": None if trial.output is None else [f"{float(x):.6e}" for x in trial.output.flatten()[:64]],
        "losses": [f"{loss:.9e}" for loss in trial.losses],
        "trained": {name: f"{float(value.abs().sum()):.9e}" for name, value in trial.trained.items()},
    }
    canonical = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
