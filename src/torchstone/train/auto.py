"""Batch, accumulation, format and compiling, chosen for this device and model where they are left open.

    train.batch_size=0                    the largest micro-batch that fits
    train.gradient_accumulation_steps=0   as many as make up the update
    train.precision=auto                  bf16 where a GPU computes with it, else fp32
    train.compile=auto                    on a GPU

What an update is made of is never changed: `train.tokens_per_update` (or `examples_per_update`) is met
exactly, or the job is refused. Several arms of a study get one choice, which fits all of them (`settle`).
What was chosen, and why, is the source of the value: in config.json, in the start block, in a dry run.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchstone._errors import ConfigError, OutOfMemory
from torchstone.config.resolve import Resolved, Value
from torchstone.data.loader import Loader
from torchstone.train.config import LEFT_OPEN
from torchstone.train.footprint import Footprint, Memory, footprint_of
from torchstone.train.space import readable
from torchstone.train.subject import Subject

BATCH, ACCUMULATION = "train.batch_size", "train.gradient_accumulation_steps"
PRECISION, COMPILE = "train.precision", "train.compile"
OPEN = LEFT_OPEN
TARGETS = ("train.tokens_per_update", "train.examples_per_update")
USED = 0.8
"""Share of the free memory that is planned with: allocators lose some, and other programs live here too."""
SOURCE = "auto: "


@dataclass(frozen=True)
class Choice:
    """Key -> the value that was chosen, and why."""

    values: Mapping[str, Any]
    why: Mapping[str, str]

    @classmethod
    def in_(cls, wish: Resolved, settled: Resolved) -> Choice:
        """What was chosen on the way from one configuration to the other."""
        keys = left_open(wish)
        return cls(
            {key: settled.plain[key] for key in keys},
            {key: settled.sources[key].removeprefix(SOURCE) for key in keys},
        )

    def of(self, config: Resolved) -> Resolved:
        """The configuration with the chosen values; each says why in its source."""
        return config.with_values(self.values, {key: SOURCE + why for key, why in self.why.items()})


def left_open(config: Resolved) -> list[str]:
    """Keys that the user leaves to the machine."""
    return [key for key, value in OPEN.items() if config.plain[key] == value]


def has_to_settle(config: Resolved) -> bool:
    """Whether there is anything to choose, or a target to hold the batch to."""
    return bool(left_open(config)) or any(config.plain[key] is not None for key in TARGETS)


def explained(config: Resolved) -> str:
    """What was chosen and why, in one line; empty where nothing was."""
    found = {key: each for key, each in config.values().items() if each.source.startswith(SOURCE)}
    return "; ".join(
        f"{key} = {each.value} ({each.source.removeprefix(SOURCE)})" for key, each in found.items()
    )


def adopt(config: Resolved, recorded: Resolved | None) -> Resolved:
    """A run that goes on keeps what was chosen for it when it began."""
    if recorded is None:
        return config
    values: dict[str, Value] = recorded.values()
    keys = left_open(config)
    return config.with_values(
        {key: values[key].value for key in keys}, {key: values[key].source for key in keys}
    )


def settle(
    arms: Sequence[Resolved],
    subject_of: Callable[[Resolved], Subject],
    *,
    device: torch.device,
    world: int = 1,
    memory: Memory | None = None,
) -> list[Resolved]:
    """One choice for all arms (of one run: one), in place of what they leave open.

    `subject_of` makes the model and data of an arm. Each is measured alone and let go. `memory` is what the
    device has for each of `world` processes; None: what is free now.
    """
    _require_alike(arms)
    if memory is None:
        memory = Memory.of(device)
        if device.type == "cpu":
            memory = Memory(free=memory.free // world, name=memory.name)
    choice = by_device(arms[0], device)
    sizes_open = {BATCH, ACCUMULATION} & {*left_open(arms[0])}
    if sizes_open or any(arms[0].plain[key] is not None for key in TARGETS):
        _require_target(arms[0], sizes_open)
        measured, examples = [], []
        for arm in arms:
            trial = choice.of(arm).with_values({BATCH: 1, ACCUMULATION: 1} | _no_target(arm), source="auto")
            subject = subject_of(trial)
            examples.append(examples_per_update(arm, subject))
            if BATCH in sizes_open and ACCUMULATION in sizes_open:
                measured.append(footprint_of(subject, trial))
            del subject  # before the next one is made
            _give_back(device)
        if len(set(examples)) > 1:
            raise ConfigError(
                "the arms would not have the same batch",
                why=f"an update is {' and '.join(map(str, sorted(set(examples))))} examples long in them",
                next="give all arms the same data.sequence_length, or name the batch in each",
            )
        sizes = by_memory(arms[0], measured, memory, examples=examples[0], world=world)
        choice = Choice({**choice.values, **sizes.values}, {**choice.why, **sizes.why})
    return [choice.of(arm) for arm in arms]


def _give_back(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _require_alike(arms: Sequence[Resolved]) -> None:
    """What is chosen for all must be left open, or be the same, in all."""
    for key in (*OPEN, *TARGETS):
        values = {arm.plain[key] for arm in arms}
        if len(values) > 1 and (key in TARGETS or OPEN[key] in values):
            raise ConfigError(
                f"{key} is chosen for all arms at once, and they do not agree on it",
                why=" and ".join(sorted(map(str, values))),
                next="leave it open in all arms, or in none",
            )


def _require_target(config: Resolved, sizes_open: set[str]) -> None:
    if sizes_open and all(config.plain[key] is None for key in TARGETS):
        key = min(sizes_open)
        raise ConfigError(
            f"{key} = 0 leaves open what an update is made of",
            where=config.sources[key],
            why="the machine may cut an update into micro-steps; it may not decide how large one is",
            next="--set train.tokens_per_update=65536, or train.examples_per_update=64",
        )


def _no_target(config: Resolved) -> dict[str, None]:
    return {key: None for key in TARGETS if config.plain[key] is not None}


def examples_per_update(config: Resolved, subject: Subject) -> int:
    """Examples that make up exactly what the target says, or a ConfigError."""
    loop, loader = config.train, subject.batches
    if not isinstance(loader, Loader):
        key = next(key for key in (*left_open(config), *TARGETS) if config.plain[key] is not None)
        raise ConfigError(
            f"{key} has no effect on this data",
            why="its batches are made elsewhere (a DataLoader)",
            next="give the dataset itself, or take the key out",
        )
    if loop.tokens_per_update is None:
        return int(loop.examples_per_update)
    length = getattr(loader.dataset, "sequence_length", None)
    if length is None:
        raise ConfigError(
            "train.tokens_per_update has no meaning for this data",
            where=f"task {subject.task.kind}",
            why="its examples are not equally long",
            next="--set train.examples_per_update=N",
        )
    examples, rest = divmod(loop.tokens_per_update, length)
    if rest or not examples:
        near = sorted({max(examples, 1) * length, (examples + 1) * length})
        raise ConfigError(
            f"{loop.tokens_per_update:,} tokens per update are no whole number of examples",
            where=config.sources["train.tokens_per_update"],
            why=f"an example has {length} tokens",
            next="--set train.tokens_per_update=" + " or ".join(map(str, near)),
        )
    if loop.examples_per_update not in (None, examples):
        raise ConfigError(
            "train.tokens_per_update and train.examples_per_update contradict each other",
            why=f"{loop.tokens_per_update:,} tokens are {examples} examples of {length}",
            next="take one of them out",
        )
    return examples


# --- pure choices -------------------------------------------------------------------------------


def by_device(config: Resolved, device: torch.device) -> Choice:
    """Format and compiling, which follow from the device alone."""
    values, why = {}, {}
    if config.train.precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        values[PRECISION] = "bf16" if has_bf16 else "fp32"
        why[PRECISION] = "the GPU computes with it" if has_bf16 else f"the exact format on {device.type}"
    if config.train.compile == "auto":
        pays = device.type == "cuda" and importlib.util.find_spec("triton") is not None
        values[COMPILE] = "default" if pays else "none"
        why[COMPILE] = (
            "on a GPU; given up, with the reason, where it fails"
            if pays
            else f"on {device.type} compiling takes longer than most runs gain; train.speed=probe measures it"
        )
    return Choice(values, why)


def by_memory(
    config: Resolved, footprints: Sequence[Footprint], memory: Memory, *, examples: int, world: int = 1
) -> Choice:
    """Micro-batch and accumulation whose product is `examples`, exactly; the batch as large as fits.

    It fits with every footprint. `footprints` are needed only where both are open.
    """
    batch, steps = config.plain[BATCH], config.plain[ACCUMULATION]
    target = f"{examples} examples per update"
    if batch and steps:
        if batch * steps != examples:
            raise _not_exact(config, f"{batch} x {steps} = {batch * steps} is not {target}", examples)
        return Choice({}, {})
    if batch or steps:
        open_key, given = (ACCUMULATION, batch) if batch else (BATCH, steps)
        if examples % given:
            raise _not_exact(config, f"{target} cannot be made of {given}", examples)
        return Choice({open_key: examples // given}, {open_key: f"{target} / {given}"})
    size = largest_that_fits(footprints, memory, examples=examples, world=world)
    most = max(footprints, key=lambda each: each.needed(size))
    why = (
        f"the largest part of {target} that fits: {readable(most.needed(-(-size // world)))} of "
        f"{readable(memory.free)} free on {memory.name}; measured {most.words}"
    )
    return Choice(
        {BATCH: size, ACCUMULATION: examples // size}, {BATCH: why, ACCUMULATION: f"{target} / {size}"}
    )


def _not_exact(config: Resolved, why: str, examples: int) -> ConfigError:
    return ConfigError(
        "batch and accumulation do not come to what an update is made of",
        where=", ".join(config.sources[key] for key in (BATCH, ACCUMULATION)),
        why=why,
        next=f"leave {BATCH} and {ACCUMULATION} open (0), or choose divisors of {examples}",
    )


def largest_that_fits(
    footprints: Sequence[Footprint], memory: Memory, *, examples: int, world: int = 1
) -> int:
    """The largest divisor of `examples` whose share on each of `world` devices fits with every footprint."""
    divisors = [size for size in range(1, examples + 1) if examples % size == 0]
    shared = [size for size in divisors if size % world == 0]
    budget = USED * memory.free
    fitting = [
        size
        for size in shared or divisors
        if all(each.needed(-(-size // world)) <= budget for each in footprints)
    ]
    if fitting:
        return max(fitting)
    least = max(each.needed(1) for each in footprints)
    planned = f"{USED:.0%} of {readable(memory.free)} free is {readable(int(budget))}"
    raise OutOfMemory(
        "not even one example at a time fits into the memory",
        where=memory.name,
        why=f"training takes {readable(least)}; {planned}",
        next="--set train.gradient_checkpointing=y, a shorter data.sequence_length, or a smaller model",
    )
