"""The small twin of an arm: widths in proportion, two blocks, a short sequence, a few optimizer steps.

What tells two arms apart at full size tells their twins apart too: sizes that differ stay different, and
widths shrink by one common divisor. Intervals counted in optimizer steps shrink with the run, and what is
measured per step grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchstone.config.knobs import Knob, knobs_of
from torchstone.config.layers import BACK_TO_DEFAULT
from torchstone.config.resolve import Resolved
from torchstone.config.values import in_effect

UPDATES = 7
"""Optimizer steps of a twin's life."""
SAVED_AT = 5
"""Where it is saved, to be resumed: behind the end of most pruning ramps."""
SPIKED_AT = 4
"""The step whose gradients are far too large, counted from 0."""
SCALED_STEPS = "optimizer steps"
"""Unit of the intervals that shrink with the run."""
RATES = "loss per optimizer step"
"""Unit of what grows as they shrink."""
ROWS, MICRO_STEPS = 2, 2
TOKENS = 40
"""Of a twin's sequence; more than the chunks and blocks that mechanisms usually work in."""
OPEN_INTERVAL = 3
BLOCKS = 2
LEAST_WIDTH, LEAST_HEAD, LEAST_TOKENS = 48, 8, 4
VOCABULARY = 256
SEED = 1
UNSCALED_AT_MOST = 20_000_000
"""Parameters of a model that has no sizes to shrink and is trained as it is."""

_KEPT_OF_THE_LOOP = (
    "ema_decay", "on_nonfinite", "max_nonfinite", "gradient_checkpointing", "loss_chunk",
    "lora_rank", "lora_alpha", "lora_dropout", "lora_targets",
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How every size of a study's arms becomes small; made from all arms, whichever are chosen."""

    channels: int = 1
    """What widths are divided by."""
    sizes: Mapping[tuple[str, int], int] | None = None
    """(key, size) -> size of the twin, for what is not a width."""
    rounded: tuple[int, ...] = ()
    """Widths that the divisor does not divide."""

    @property
    def notes(self) -> list[str]:
        if not self.rounded:
            return []
        widths = ", ".join(map(str, self.rounded))
        return [f"widths of {widths} do not shrink by {self.channels} evenly: their twins are rounded"]


def sizes_of(settings: Resolved, config: Mapping[str, Any]) -> dict[str, int]:
    """Key -> size of every knob of the model with a unit that can shrink; `config` tells those left open."""
    found = {}
    knobs = knobs_of(settings.sections)
    for key in _size_knobs(settings):
        if not in_effect(key, knobs, settings.plain):
            continue
        value = settings.plain[key]
        if value is None:
            value = _in_config(config, key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[key] = value
    return found


def scale_of(arms: Sequence[Mapping[str, int]], knobs: Mapping[str, Knob]) -> Scale:
    """The scale for arms with these sizes."""
    widths = {size for arm in arms for key, size in arm.items() if knobs[key].unit == "channels"}
    heads = {arm["model.d_model"] // arm["model.num_heads"] for arm in arms if _has_heads(arm)}
    narrowest = min((arm["model.d_model"] for arm in arms if "model.d_model" in arm), default=0)
    divisor, rounded = _divisor(widths, heads, narrowest)
    blocks = max((arm.get("model.num_layers", 1) for arm in arms), default=1)
    tokens = max((arm.get("model.max_seq_len", TOKENS) for arm in arms), default=TOKENS)
    least = {
        "model.num_layers": lambda size: min(size, BLOCKS),
        "model.vocab_size": lambda size: min(size, VOCABULARY),
        "model.max_seq_len": lambda size: min(size, TOKENS),
    }
    by_unit = {
        "channels": lambda size: round(size / divisor),
        "heads": lambda size: size,
        "blocks": lambda size: round(size * BLOCKS / blocks),
        "tokens": lambda size: max(round(size * TOKENS / tokens), min(size, LEAST_TOKENS)),
    }
    sizes: dict[tuple[str, int], int] = {}
    for key in {key for arm in arms for key in arm}:
        values = sorted({arm[key] for arm in arms if key in arm})
        small = least.get(key) or by_unit[knobs[key].unit or "heads"]
        sizes |= {(key, size): made for size, made in zip(values, _distinct(map(small, values)), strict=True)}
    return Scale(divisor, sizes, tuple(sorted(rounded)))


def twin_settings(settings: Resolved, sizes: Mapping[str, int], scale: Scale, total_steps: int) -> Resolved:
    """The configuration of the twin: sizes shrunk, data and loop reduced to what the proof feeds it."""
    knobs = knobs_of(settings.sections)
    changes: dict[str, Any] = {
        key: BACK_TO_DEFAULT
        for key in knobs
        if key.startswith(("train.", "data.", "tracking."))
        and key.partition(".")[2] not in _KEPT_OF_THE_LOOP
        and settings.plain[key] != knobs[key].default
    }
    changes |= {
        "train.batch_size": ROWS,
        "train.gradient_accumulation_steps": MICRO_STEPS,
        "train.max_steps": UPDATES,
        "train.checkpoint_every": SAVED_AT,
        "train.async_save": False,
        "train.random_seed": SEED,
        "tracking.dashboard": False,
    }
    assert scale.sizes is not None
    changes |= {key: scale.sizes[key, size] for key, size in sizes.items()}
    ratio = UPDATES / max(total_steps, UPDATES)
    for key, knob in knobs.items():
        if knob.unit == SCALED_STEPS and key.startswith(("optim.", "prune.", "model.")):
            small = _interval(settings.plain[key], ratio, knob)
            if small != settings.plain[key] and in_effect(key, knobs, settings.plain):
                changes[key] = small
        elif knob.unit == RATES and in_effect(key, knobs, settings.plain):
            changes[key] = settings.plain[key] / ratio
    return settings.with_values(changes, "the small twin")


def steps_of(settings: Resolved) -> int:
    """Optimizer steps of a run, where the configuration tells them; else what a run usually has."""
    steps = settings.train.max_steps
    return int(steps) if steps is not None else 1000


def _interval(steps: int | None, ratio: float, knob: Knob) -> int | None:
    """An interval of a long run as one of the twin's. One left open is passed within the twin's life.

    What may be 0 (a warm-up) stays shorter than what may not (the time between two resets).
    """
    least = int(knob.ge or 0)
    if steps is None:
        return max(least, OPEN_INTERVAL) if least else 1
    return max(least, 1, round(steps * ratio)) if steps else 0


def _size_knobs(settings: Resolved) -> dict[str, Knob]:
    units = ("channels", "heads", "blocks", "tokens")
    return {
        key: knob
        for key, knob in knobs_of(settings.sections).items()
        if key.startswith("model.") and knob.kind == "int" and not knob.many
        if knob.unit in units
    }


def _in_config(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split(".")[1:]:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _has_heads(arm: Mapping[str, int]) -> bool:
    return "model.d_model" in arm and "model.num_heads" in arm


def _divisor(widths: Iterable[int], heads: Iterable[int], narrowest: int) -> tuple[int, set[int]]:
    """The largest divisor that leaves model and heads wide enough; widths that it does not divide.

    Widths that would forbid any are rounded rather than obeyed; heads must stay whole.
    """
    widths, heads = set(widths), set(heads)
    largest = max(1, min(narrowest // LEAST_WIDTH, min(heads, default=LEAST_HEAD) // LEAST_HEAD))
    fitting = [k for k in range(1, largest + 1) if all(each % (2 * k) == 0 for each in heads)]
    for k in reversed(fitting):
        if all(each % k == 0 for each in widths):
            if k > 1 or largest < 4:
                return k, set()
            break
    k = max(fitting, default=1)
    return k, {each for each in widths if each % k}


def _distinct(sizes: Iterable[int]) -> list[int]:
    """Rising sizes pushed apart where they have become equal, none below 1."""
    made: list[int] = []
    for each in sizes:
        made.append(max(each, made[-1] + 1 if made else 1))
    return made


def tokens_per_update(settings: Resolved, max_seq_len: int | None) -> int | None:
    """Tokens that one optimizer step sees; None where the machine shall choose without a target."""
    loop, length = settings.train, sequence_length(settings, max_seq_len)
    if loop.tokens_per_update is not None:
        return int(loop.tokens_per_update)
    if loop.examples_per_update is not None:
        return int(loop.examples_per_update * length)
    return int(loop.batch_size * loop.gradient_accumulation_steps * length) or None


def sequence_length(settings: Resolved, max_seq_len: int | None) -> int:
    """Tokens of a training example, as the data room chooses them."""
    from torchstone.train.text import LONGEST_DEFAULT_SEQUENCE

    if settings.data.sequence_length is not None:
        return int(settings.data.sequence_length)
    return min(max_seq_len or LONGEST_DEFAULT_SEQUENCE, LONGEST_DEFAULT_SEQUENCE)
