"""What a study will cost before it is run: sizes from tensors without memory, time from runs that there were.

Memory is what must be held at least (weights, gradients, the optimizer's state); activations come on top.
Time is told where the store holds a finished run of the same model at the same length and micro-batch on the
same hardware, else from the FLOPs of such runs of the study's other models, and is said to be unknown
otherwise; energy where such a run had a meter.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from torchstone.config.resolve import Resolved
from torchstone.optim.registry import build_optimizer
from torchstone.study.plan import Plan
from torchstone.study.prove.bench import Bench
from torchstone.study.prove.full_size import FullSize, Operations, measure_full_size, without_memory
from torchstone.study.prove.twin import sequence_length, tokens_per_update
from torchstone.tracking.energy import KIND as ENERGY
from torchstone.tracking.environment import cpu_model
from torchstone.tracking.rows import FACTS
from torchstone.train.device import choose_device
from torchstone.train.losses import LOSSES
from torchstone.train.space import state_after_a_step

if TYPE_CHECKING:
    from torchstone.tracking.rows import RunRow
    from torchstone.tracking.store import Store

SCHEMA = "torchstone.study-estimate/1"
_OF_THE_SPEED = ("model.", "data.sequence_length", "train.batch_size", "train.precision", "train.compile")
"""Keys that a step's time depends on."""
_OF_THE_RECIPE = tuple(key for key in _OF_THE_SPEED if key != "model.")
_BACKWARD = 2
"""Times the forward pass, as is usual: gradients of inputs and of weights."""


@dataclass(frozen=True, kw_only=True)
class ArmEstimate:
    """One arm with one seed."""

    id: str
    name: str
    cells: int
    parameters: int
    kv_bytes_per_token: int | float | None
    memory_bytes: int
    """Weights, gradients and the optimizer's state; without activations."""
    tokens: int | None
    """Targets of the whole run; None: it ends by epochs, and nobody has read the data."""
    unit: str = "tokens"
    """What they are: tokens, images ..."""
    flops: int | None
    """Forward and backward, of the whole run."""
    seconds: float | None
    """Of one cell; None: there is no run to go by."""
    basis: str
    """What the time was taken from, or why there is none."""
    energy_joules: float | None = None
    """Of one cell; None: no run that is alike had a meter."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A study's chosen cells."""

    study: str
    arms: tuple[ArmEstimate, ...]

    @property
    def seconds(self) -> float | None:
        """Of all cells, one after the other; None where one is unknown."""
        known = [each.seconds for each in self.arms]
        if any(each is None for each in known):
            return None
        return sum(each.cells * (each.seconds or 0.0) for each in self.arms)

    @property
    def energy_joules(self) -> float | None:
        """Of all cells; None where one is unknown."""
        known = [each.energy_joules for each in self.arms]
        if any(each is None for each in known):
            return None
        return sum(each.cells * (each.energy_joules or 0.0) for each in self.arms)

    def to_dict(self) -> dict[str, Any]:
        """The object that `study estimate --json` prints."""
        return {
            "schema": SCHEMA,
            "study": self.study,
            "seconds": self.seconds,
            "energy_joules": self.energy_joules,
            "arms": [asdict(each) for each in self.arms],
        }


def estimate(
    plan: Plan,
    store: Store | None = None,
    bench: Bench | None = None,
    tell: Callable[[str], None] | None = None,
) -> Estimate:
    """Measure every chosen arm on the meta device, and look for runs like it in `store`."""
    bench = bench or Bench()
    arms, paces, known = [], [], Operations()
    for number, arm in enumerate(plan.chosen_arms, 1):
        if tell:
            tell(f"estimating {number}/{len(plan.chosen_arms)} {arm.id}")
        with without_memory():
            loaded = bench.load(arm.id, arm.settings)
        length = sequence_length(arm.settings, loaded.config.get("max_seq_len"))
        full = measure_full_size(loaded, length, known)
        with torch.device("meta"):
            state = state_after_a_step(build_optimizer(loaded.module, arm.settings.optim))
        kind = loaded.config.get("task")
        unit = LOSSES.get(kind).unit if isinstance(kind, str) and kind in LOSSES else "tokens"
        each = length if unit == "tokens" else 1
        tokens = _targets(arm.settings, full, each)
        seconds, basis = _seconds(arm.settings, tokens, unit, store)
        paces.append(_pace_keys(arm.settings.to_json()["values"], _OF_THE_RECIPE))
        forward = None if full.flops is None or tokens is None else full.flops * tokens // each
        arms.append(
            ArmEstimate(
                id=arm.id,
                name=arm.name,
                cells=sum(cell.arm == arm.id for cell in plan.cells),
                parameters=full.parameters,
                kv_bytes_per_token=full.kv_bytes_per_token,
                memory_bytes=2 * full.weight_bytes + state,
                tokens=tokens,
                unit=unit,
                flops=None if forward is None else forward * (1 + _BACKWARD),
                seconds=seconds,
                basis=basis,
                energy_joules=_joules(arm.settings, tokens, store),
            )
        )
    if tell:
        tell("")
    return Estimate(study=plan.study.name, arms=tuple(_by_flops(arms, paces)))


def _by_flops(arms: list[ArmEstimate], paces: list[Any]) -> Iterator[ArmEstimate]:
    """Times of arms that no run speaks for, at the FLOPs per second of those with the same recipe."""
    told = [(each, pace) for each, pace in zip(arms, paces, strict=True) if each.seconds and each.flops]
    for each, pace in zip(arms, paces, strict=True):
        alike = [other for other, its in told if its == pace]
        if each.seconds is not None or not each.flops or not alike:
            yield each
            continue
        rate = statistics.median((other.flops or 0) / (other.seconds or 1.0) for other in alike)
        names = ", ".join(other.id for other in alike[:5])
        basis = f"{rate / 1e9:,.3g} GFLOP/s, as of {names}: another model, so only its FLOPs are compared"
        yield replace(each, seconds=each.flops / rate, basis=basis)


def _targets(settings: Resolved, full: FullSize, of_an_example: int) -> int | None:
    """Of the whole run, where an example has so many of them."""
    if settings.train.max_steps is None:
        return None
    longest = full.config.get("max_seq_len")
    per_update = tokens_per_update(settings, longest)
    if per_update is None:
        return None
    examples = per_update // sequence_length(settings, longest)
    return examples * of_an_example * int(settings.train.max_steps)


def _seconds(
    settings: Resolved, tokens: int | None, unit: str, store: Store | None
) -> tuple[float | None, str]:
    """(seconds, what they were taken from) of one run with these settings."""
    if tokens is None:
        return None, f"the run ends by epochs, whose number of {unit} is not known"
    if store is None:
        return None, "there is no store of runs"
    speeds = list(_speeds(settings, store))
    if not speeds:
        return None, "no finished run in the store has this model, length and micro-batch on this hardware"
    middle = statistics.median(speeds)
    return tokens / middle, f"{middle:,.0f} {unit}/s, the median of {len(speeds)} runs on this hardware"


def _speeds(settings: Resolved, store: Store) -> Iterator[float]:
    """Median tokens per second of each finished run that is alike and was made on such a device."""
    for run in _alike(settings, store):
        rows = store.metrics(run.run_id, "train/tokens_per_s")
        if rows:
            yield statistics.median(row.value for row in rows)


def _joules(settings: Resolved, tokens: int | None, store: Store | None) -> float | None:
    """Of one run with these settings, by what sessions that are alike spent for each target."""
    if tokens is None or store is None:
        return None
    sessions = [
        each.data
        for run in _alike(settings, store)
        for each in store.events(run.run_id)
        if each.kind == ENERGY and each.data["tokens"] > 0
    ]
    if not sessions:
        return None
    spent = sum(sum(each["joules"].values()) for each in sessions)
    return float(tokens * spent / sum(each["tokens"] for each in sessions))


def _alike(settings: Resolved, store: Store) -> Iterator[RunRow]:
    """Finished runs of this model with this recipe on such a device."""
    here, wanted = _device_name(), _pace_keys(settings.to_json()["values"])
    for run in store.runs(kind="train"):
        recorded = run.config.get("values") if run.status == "completed" else None
        if not isinstance(recorded, dict) or _pace_keys(recorded) != wanted:
            continue
        facts = [each.data for each in store.events(run.run_id) if each.kind == FACTS]
        if facts and facts[-1].get("hardware", {}).get("name") == here:
            yield run


def _device_name() -> str:
    """What a run on this machine would have as the name of its device."""
    device = choose_device(None)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def _pace_keys(values: Any, beginnings: tuple[str, ...] = _OF_THE_SPEED) -> dict[str, Any]:
    return {key: each.get("value") for key, each in values.items() if key.startswith(beginnings)}
