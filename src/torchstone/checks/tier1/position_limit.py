"""position-limit: the model works up to the length that it promises, and is clear about one token more.

At the limit it must run and stay finite. Beyond it an error is clear, and so is a model whose positions have
no table. Silent garbage is not: positions that are clamped or wrapped around, outputs that are cut short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone._errors import in_one_line
from torchstone.adapt.facts import LENGTH_WORDS
from torchstone.checks.probe import Probe
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import shown

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

_REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, KeyError)


def position_limit(context: Context) -> CheckResult:
    measured = context.facts.max_seq_len
    limit = context.facts.config.number(*LENGTH_WORDS) or measured
    if not context.takes_tokens:
        return context.skipped(f"the input is {context.primary}, not tokens")
    if limit is None:
        return context.skipped("neither the configuration nor a table says how long a sequence may be")
    if limit > context.plan.affordable:
        return context.skipped(
            f"a pass of {limit} tokens is beyond the budget (up to {context.plan.affordable}); raise --budget"
        )
    details: dict[str, Any] = {
        "limit": limit,
        "measured": measured,
        "source": context.facts.max_seq_len_source,
    }
    with context.mode(train=False):
        probe = Probe(context, exact=False)
        works, why, positions = _try(context, probe, limit)
        if not works:
            return _short(context, probe, limit, why, details)
        if context.device.type != "cpu":
            return context.passed(
                f"{limit} tokens work; beyond that an accelerator would abort, so it was not asked",
                measured=float(limit), limit=float(limit), unit="tokens", details=details,
            )  # fmt: skip
        beyond, why, more = _try(context, probe, limit + 1)
        details["one more"] = why or "works"
        if beyond and (kind := _garbage(more)):
            name, how = kind
            return context.warned(
                f"{limit + 1} tokens are taken in silence, their positions {how} ({name})",
                measured=float(limit + 1), limit=float(limit), unit="tokens", module=name, details=details,
                hint="raise an error for more tokens than there are positions",
            )  # fmt: skip
        if not beyond and why.startswith("silently"):
            return context.warned(
                f"{limit + 1} tokens are taken, {why}",
                measured=float(limit + 1), limit=float(limit), unit="tokens", details=details,
                hint="raise an error for more tokens than there are positions",
            )  # fmt: skip
        if not beyond and (wasted := _unused_rows(positions, context)):
            return context.warned(
                f"positions start at {wasted[1]}: the first rows of {wasted[0]} are never used",
                measured=float(limit), limit=float(limit + wasted[1]), unit="tokens", module=wasted[0],
                details=details, hint="count positions from zero, or build a table with a row for each token",
            )  # fmt: skip
        says = "more are taken, positions go on" if beyond else "one more is refused"
        return context.passed(
            f"{limit} tokens work, {says}",
            measured=float(limit), limit=float(limit), unit="tokens", details=details,
        )  # fmt: skip


def _short(context: Context, probe: Probe, limit: int, why: str, details: dict[str, Any]) -> CheckResult:
    """It fails at its own limit: off by one, or by more?"""
    details["at the limit"] = why
    tables = [
        (name, each.num_embeddings)
        for name, each in context.module.named_modules()
        if isinstance(each, nn.Embedding) and 0 < limit - each.num_embeddings <= 4
    ]
    name = tables[0][0] if tables else None
    probe.run(context.batch(1, length=min(2, limit)))  # A model that cannot be called at all is no finding.
    works = _longest(context, probe, limit)
    reserved = _reserved_rows(context, probe, works)
    if reserved and works + reserved[1] >= limit:
        return context.warned(
            f"{works} tokens work, not {limit}: {reserved[0]} keeps its first {reserved[1]} rows for padding",
            measured=float(works), limit=float(limit), unit="tokens", module=reserved[0], details=details,
        )  # fmt: skip
    details["longest that works"] = works
    off = "off by one: " if works == limit - 1 else ""
    return context.failed(
        f"{off}the model promises {limit} tokens and works up to {works}",
        measured=float(works), limit=float(limit), unit="tokens", module=name, details=details,
        hint="give the position table a row for each promised token, counted from its first position",
    )  # fmt: skip


def _unused_rows(asked: dict[str, Tensor], context: Context) -> tuple[str, int] | None:
    """A table without a padding row, whose first position is not its first row."""
    tables = dict(context.module.named_modules())
    for name, index in asked.items():
        counts_up = len(index) > 1 and bool((index.diff() == 1).all())
        if counts_up and int(index[0]) > 0 and getattr(tables[name], "padding_idx", None) is None:
            return name, int(index[0])
    return None


def _reserved_rows(context: Context, probe: Probe, works: int) -> tuple[str, int] | None:
    """A position table with a padding row, whose first real position comes after it."""
    _, _, asked = _try(context, probe, max(works, 1))
    tables = dict(context.module.named_modules())
    for name, index in asked.items():
        padding = getattr(tables[name], "padding_idx", None)
        if padding is not None and int(index[0]) == padding + 1:
            return name, int(index[0])
    return None


def _longest(context: Context, probe: Probe, limit: int) -> int:
    """Bisection between what works and what does not; the neighbour below is asked first."""
    if _try(context, probe, limit - 1)[0]:
        return limit - 1
    works, fails = 0, limit - 1
    while fails - works > 1:
        middle = (works + fails) // 2
        if _try(context, probe, middle)[0]:
            works = middle
        else:
            fails = middle
    return works


def _try(context: Context, probe: Probe, length: int) -> tuple[bool, str, dict[str, Tensor]]:
    """Whether a pass of `length` tokens works, why not, and the positions that tables were asked for."""
    if length < 1:
        return False, "no tokens", {}
    batch = context.batch(1, length=length)
    try:
        with _asked(context.module, batch[context.primary]) as asked:
            main = shown(probe.run(batch))
    except _REFUSALS as error:
        return False, in_one_line(error), {}
    if not bool(torch.isfinite(main).all()):
        return False, "the output is not finite", asked
    decodes = context.signature.has("decoder_ids")
    shorter = shown(probe.run(context.batch(1, length=max(1, length // 2))))
    per_token = main.dim() >= 3 and shorter.dim() >= 3 and shorter.shape[1] >= max(1, length // 2) > 1
    if per_token and not decodes and main.shape[1] < length:
        return False, f"silently cut to {main.shape[1]} positions", asked
    return True, "", asked


@contextmanager
def _asked(module: nn.Module, ids: Tensor) -> Iterator[dict[str, Tensor]]:
    """Indices that embedding tables other than the vocabulary's are asked for, by module name."""
    asked: dict[str, Tensor] = {}

    def catching(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and not args[0].is_floating_point():
                index = args[0].detach()
                if index.numel() == ids.shape[1] and not torch.equal(index.reshape(-1), ids.reshape(-1)):
                    asked[name] = index.reshape(-1).clone()

        return hook

    handles = [
        each.register_forward_pre_hook(catching(name))
        for name, each in module.named_modules()
        if isinstance(each, nn.Embedding)
    ]
    try:
        yield asked
    finally:
        for handle in handles:
            handle.remove()


def _garbage(asked: dict[str, Tensor]) -> tuple[str, str] | None:
    """A table whose positions rise by one up to the limit, and then repeat."""
    for name, index in asked.items():
        steps = index.diff()
        if len(steps) < 2 or not bool((steps[:-1] == 1).all()):
            continue
        if int(steps[-1]) != 1:
            return name, "are clamped to the last row" if int(steps[-1]) == 0 else "wrap around"
    return None


CHECKS.add(
    Check(
        "position-limit",
        tier=1,
        title="keeps its promised length",
        proves="The promised number of tokens works, and one more is refused or handled, never garbled.",
        run=position_limit,
    )
)
