"""Run a model once or twice and measure what its inputs index: facts that no configuration can get wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from torchstone.adapt.binding import Binding
from torchstone.adapt.examples import Examples
from torchstone.adapt.facts import ModelFacts, device_of, with_note
from torchstone.adapt.output import read_output
from torchstone.adapt.probe import watch


def measure(binding: Binding, facts: ModelFacts) -> ModelFacts:
    """Complete and correct `facts` by looking at one forward pass."""
    if any(each.role == "unknown" and each.required for each in binding.signature.arguments):
        return facts
    examples = Examples(binding.signature, facts, device=device_of(binding.base))
    batch = examples.batch(1, length=min(4, facts.max_seq_len or 4))
    if "input_ids" not in batch:
        return facts
    ids = {"input_ids": batch["input_ids"]}
    consumers, result = watch(binding.base, ids, lambda: binding.call(batch))
    rows = next(
        (each.rows for each in consumers["input_ids"] if each.operation in ("embedding", "index")), None
    )
    facts = _with_vocabulary(facts, rows)
    if isinstance(result, Exception):
        return with_note(facts, f"a first run was refused: {result}")
    return replace(facts, output_size=_last_dimension(result, facts))


def _with_vocabulary(facts: ModelFacts, rows: int | None) -> ModelFacts:
    if rows is None:
        return facts
    if facts.vocab_size is None:
        return replace(facts, vocab_size=rows, vocab_size_source="embedding")
    if facts.vocab_size == rows:
        return replace(facts, vocab_size_source="config, confirmed by the embedding")
    note = f"the config says {facts.vocab_size} ids, the embedding that consumes them has {rows} rows"
    return with_note(facts, note, vocab_size=rows, vocab_size_source="embedding")


def _last_dimension(result: Any, facts: ModelFacts) -> int | None:
    main: Tensor = read_output(result, facts).main
    return int(main.shape[-1]) if main.dim() else None
