"""vocab-range: every id of the vocabulary is taken, none beyond it, and the head speaks all of them.

Tables with more rows than the vocabulary (padded to a round number) are usual and only told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.adapt.facts import VOCAB_WORDS
from torchstone.checks.probe import Probe
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import shown

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

_REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError, KeyError)


def vocab_range(context: Context) -> CheckResult:
    vocab = context.facts.vocab_size
    if not context.takes_tokens:
        return context.skipped(f"the input is {context.primary}, not tokens")
    if vocab is None:
        return context.skipped("the size of the vocabulary is not known; give it in config=")
    with context.mode(train=False):
        probe = Probe(context, exact=False)
        with _tables(context.module, context.batch(1, length=2)["input_ids"]) as tables:
            width = shown(probe.run(context.batch(1, length=2))).shape[-1]
        name, rows = next(iter(tables.items())) if tables else (None, None)
        details: dict[str, Any] = {
            "vocab_size": vocab, "source": context.facts.vocab_size_source,
            "embedding rows": rows, "output width": width,
        }  # fmt: skip
        fields: dict[str, Any] = {
            "measured": float(rows if rows is not None else vocab), "limit": float(vocab), "unit": "tokens",
            "module": name, "details": details,
        }  # fmt: skip
        promised = max(vocab, context.facts.config.number(*VOCAB_WORDS) or 0)
        if rows is not None and rows < promised and _ask(context, probe, promised - 1):
            details["promised"] = promised
            return context.failed(
                f"the vocabulary has {promised} tokens, the embedding ({name}) only {rows} rows",
                hint="build the embedding with vocab_size rows, or correct vocab_size",
                **(fields | {"limit": float(promised)}),
            )
        # Placeholders of images and sound mean something else than a token.
        last = next(each for each in range(vocab - 1, -1, -1) if each not in context.facts.reserved_ids)
        problem = _ask(context, probe, last)
        if problem:
            return context.failed(f"id {last} of {vocab} is not taken: {problem}", **fields)
        speaks = context.task.kind in ("causal-lm", "masked-lm", "seq2seq") and width > 1
        if speaks and width < vocab and context.adapter.guess.certain:
            return context.failed(
                f"the head speaks {width} of {vocab} tokens: a label beyond that cannot be learned",
                hint="give the head as many outputs as the embedding has rows",
                **(fields | {"measured": float(width), "module": None}),
            )
        if context.device.type != "cpu":
            # An index out of range aborts an accelerator's whole context.
            return context.passed(f"ids up to {vocab - 1} are taken", **(fields | {"module": None}))
        return _beyond(context, probe, vocab, rows, fields)


def _beyond(
    context: Context, probe: Probe, vocab: int, rows: int | None, fields: dict[str, Any]
) -> CheckResult:
    if rows is not None and rows > vocab:
        return context.passed(
            f"ids up to {vocab - 1} are taken; the table has {rows - vocab} more rows than the vocabulary",
            **fields,
        )
    if _ask(context, probe, vocab) is None:
        return context.warned(
            f"id {vocab}, beyond the vocabulary, is taken in silence",
            hint="do not clamp or wrap ids: a wrong tokenizer would go unnoticed",
            **fields,
        )
    return context.passed(
        f"ids up to {vocab - 1} are taken, {vocab} is refused", **(fields | {"module": None})
    )


def _ask(context: Context, probe: Probe, token: int) -> str | None:
    """Why the model does not take `token`; None if it does."""
    batch = context.batch(1, length=2)
    ids = batch["input_ids"].clone()
    ids[:, 0] = token
    try:
        main = shown(probe.run({**batch, "input_ids": ids}))
    except _REFUSALS as error:
        return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return None if bool(torch.isfinite(main).all()) else "the output is not finite"


@contextmanager
def _tables(module: nn.Module, ids: Tensor) -> Iterator[dict[str, int]]:
    """Rows of the embedding tables that are asked for exactly these ids, by module name."""
    found: dict[str, int] = {}

    def catching(name: str) -> Any:
        def hook(each: nn.Embedding, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].numel() == ids.numel():
                same = torch.equal(args[0].reshape(-1), ids.reshape(-1)) or torch.equal(
                    args[0].t().reshape(-1), ids.reshape(-1)
                )
                if same and not args[0].is_floating_point():
                    found[name] = each.num_embeddings

        return hook

    handles = [
        each.register_forward_pre_hook(catching(name))
        for name, each in module.named_modules()
        if isinstance(each, nn.Embedding)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


CHECKS.add(
    Check(
        "vocab-range",
        tier=1,
        title="the whole vocabulary, no more",
        proves="Every id below vocab_size is taken, none beyond, and the head has an output for each.",
        run=vocab_range,
    )
)
