"""cache-parity: decoding with a cache gives what the full pass gives.

A prompt, then token by token, then chunks; every new output is compared with the full forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchstone.adapt.cache import asking, cache_argument, cache_of
from torchstone.checks.bisect import difference, scale_of
from torchstone.checks.cached import guilty_step
from torchstone.checks.keep import Kept
from torchstone.checks.probe import Probe, noise_floor, probing
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import shown

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

_TOKENS = 13


def cache_parity(context: Context) -> CheckResult:
    name = cache_argument(context.signature)
    if name is None:
        return context.skipped("the model takes no cache")
    if context.task.kind not in ("causal-lm", "seq2seq", "multimodal"):
        return context.skipped(f"task is {context.task.kind}")
    length = min(_TOKENS, context.plan.length)
    if length < 4:
        return context.skipped("sequences are too short to split")
    with context.taken_apart(), probing(context) as probe:
        batch = context.batch(length=length)
        stream = "decoder_input_ids" if "decoder_input_ids" in batch else context.primary
        full = shown(probe.run(_asking(context, batch)))
        if full.dim() < 3 or full.shape[1] != length:
            return context.skipped("the output does not show every position")
        if noise_floor(probe, batch) > probe.limit(full):
            return context.skipped("two equal calls differ; see state-leak and eval-determinism")
        if cache_of(probe.run(_asking(context, batch)), name) is None:
            return context.skipped(f"the model takes {name} but gives none back")
        limit = probe.limit(full, reshaped=True)
        prompt = length // 2
        measured: dict[str, float] = {}
        for how, sizes in _plans(length, prompt):
            gap, place = _decode(context, probe, batch, stream, name, full, sizes)
            measured[how] = gap
            if gap > limit and how == "by chunks" and not _grows(context, probe, batch, stream, name):
                return context.warned(
                    "with a cache, tokens must come one by one: a chunk gives other outputs",
                    measured=gap, limit=limit, unit="max abs", details=measured,
                    hint="a recurrent state has to be advanced through every token of the chunk",
                )  # fmt: skip
            if gap > limit:
                module = guilty_step(probe, batch, stream, name, place, sizes)
                where = f" ({module})" if module else ""
                return context.failed(
                    f"with a cache, {how}, the output at position {place} differs from the full pass{where}",
                    measured=gap, limit=limit, unit="max abs", module=module,
                    details={**measured, "scale": scale_of(full), "cache": name},
                    hint="positions go on after the cached tokens; new keys join the cached ones in order",
                )  # fmt: skip
        return context.passed(
            "decoding with a cache equals the full pass, by token and by chunk",
            measured=max(measured.values()), limit=limit, unit="max abs", details=measured,
        )  # fmt: skip


def _plans(length: int, prompt: int) -> list[tuple[str, list[int]]]:
    rest = length - prompt
    plans = [("token by token", [prompt] + [1] * rest)]
    if rest >= 4:
        plans.append(("by chunks", [prompt, rest - 2, 2]))
    return plans


def _decode(
    context: Context, probe: Probe, batch: Batch, stream: str, name: str, full: Tensor, sizes: list[int]
) -> tuple[float, int]:
    """The largest difference from the full pass, and where it first shows."""
    ids: Tensor = batch[stream]
    cache: Any = None
    start, worst, place = 0, 0.0, 0
    limit = probe.limit(full, reshaped=True)
    for size in sizes:
        part = {**batch, stream: ids[:, start : start + size]}
        if cache is not None:
            part[name] = cache
        output = probe.run(_asking(context, part))
        gap = difference(full[:, start : start + size], shown(output)[:, -size:])
        if gap > worst:
            place = place if worst > limit else start
            worst = gap
        cache, start = cache_of(output, name), start + size
    return worst, place


def _grows(context: Context, probe: Probe, batch: Batch, stream: str, name: str) -> bool:
    """Whether the cache gets longer with the prompt (keys and values) or is a state of fixed size."""
    sizes = []
    for length in (3, 4):
        output = probe.run(_asking(context, {**batch, stream: batch[stream][:, :length]}))
        inside = Kept.inside(cache_of(output, name))
        sizes.append(sum(each.numel() for each in inside))
    return sizes[1] > sizes[0]


def _asking(context: Context, batch: Batch) -> Batch:
    return {**batch, **asking(context.signature)}


CHECKS.add(
    Check(
        "cache-parity",
        tier=1,
        title="cached equals full",
        proves="Decoding with a cache gives the outputs of the full forward pass.",
        run=cache_parity,
    )
)
