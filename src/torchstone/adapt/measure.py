"""Run a model a few times and measure what its inputs index: facts that no configuration can get wrong.

Also watches how it behaves: the shape it returns, whether a later token changes an earlier output, whether
any attention in it is causal. A run leaves no trace (see `probe.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.adapt.binding import Binding
from torchstone.adapt.examples import Examples
from torchstone.adapt.facts import ModelFacts, device_of, with_note
from torchstone.adapt.masks import provisional_masks, settle_masks
from torchstone.adapt.output import Output, read_output
from torchstone.adapt.placing import width_of
from torchstone.adapt.probe import REFUSALS, Sight, quiet, watch
from torchstone.adapt.recipe import Recipe, recipes

_LENGTH = 7
"""Tokens of a probe: a number that few tables and widths have."""
_MOST_TRIES = 40


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a model did when it was run."""

    ran: bool = False
    refusal: str = ""
    shape: tuple[int, ...] = ()
    """Of the main tensor, for a batch of 2 rows."""
    main_name: str = ""
    looks_ahead: bool | None = None
    """Whether a later token changes an earlier output."""
    causal_attention: bool = False
    """Whether at least one attention hides later positions."""
    inputs: tuple[str, ...] = ()


def measure(binding: Binding, facts: ModelFacts) -> tuple[ModelFacts, Behaviour]:
    """Complete and correct `facts` by looking at forward passes."""
    if any(each.role == "unknown" and each.required for each in binding.signature.arguments):
        return facts, Behaviour(refusal="a required argument is not placed")
    if facts.d_model is None and binding.signature.has("embeddings") and not binding.signature.has("ids"):
        facts = replace(facts, d_model=width_of(binding.base))
    if binding.graph is not None:
        facts = replace(facts, notes=(*facts.notes, *binding.graph.notes))
    facts, sight, result = _settle(binding, facts)
    for _ in provisional_masks(binding) if isinstance(result, Exception) else ():
        facts, sight, result = _settle(binding, facts)
        if not isinstance(result, Exception):
            break
    if isinstance(result, Exception):
        note = f"no example input was accepted; the last refusal: {type(result).__name__}: {result}"
        return with_note(facts, note), Behaviour(refusal=str(result))
    output = read_output(result, facts)
    width = int(output.main.shape[-1]) if output.main.dim() else 0
    facts = replace(_with_tables(binding, facts, sight, width), output_size=width)
    output = read_output(result, facts)
    facts = _with_classes(facts)
    facts, output = _with_all_positions(binding, facts, output)
    facts = _with_layout(binding, facts)
    facts = settle_masks(binding, facts)
    behaviour = Behaviour(
        ran=True,
        shape=tuple(output.main.shape),
        main_name=output.main_name,
        looks_ahead=_looks_ahead(binding, facts),
        causal_attention=sight.causal_attention,
        inputs=tuple(sight.consumers),
    )
    return facts, behaviour


def _settle(binding: Binding, facts: ModelFacts) -> tuple[ModelFacts, Sight, Any]:
    """Try recipes until the model accepts one; what was seen in that run."""
    sight, result = Sight(), None
    tried: list[Recipe] = []
    queue = list(recipes(binding.signature, facts))
    while queue and len(tried) < _MOST_TRIES:
        recipe = queue.pop(0)
        if recipe in tried:
            continue
        tried.append(recipe)
        attempt = replace(facts, recipe=recipe)
        sight, result = _run(binding, attempt)
        corrected = _with_rows(facts, sight, refused=isinstance(result, Exception))
        if isinstance(result, Exception):
            # With ids of the right size the same recipe deserves another try.
            again = [] if corrected == facts else [recipe]
            tried = [each for each in tried if each not in again]
            facts = corrected
            queue = [*again, *_from_refusal(result, recipe, facts), *queue]
            continue
        if len(tried) > 1 and recipe != Recipe():
            attempt = with_note(attempt, f"example inputs were settled by trying: {recipe}")
        return replace(corrected, recipe=attempt.recipe, notes=attempt.notes), sight, result
    return facts, sight, result


def _with_rows(facts: ModelFacts, sight: Sight, refused: bool) -> ModelFacts:
    """Rows of the tables that ids index: where nothing was known, or where the known was refused."""
    rows, own = sight.table_rows("input_ids"), sight.table_rows("decoder_input_ids")
    if own is not None and own != (rows or facts.vocab_size):
        facts = replace(facts, decoder_vocab_size=own)
    if rows is not None and facts.vocab_size is None:
        return replace(facts, vocab_size=rows, vocab_size_source="embedding")
    if refused and rows is not None and facts.vocab_size is not None and rows < facts.vocab_size:
        note = f"the config says {facts.vocab_size} ids, the embedding that consumes them has {rows} rows"
        return with_note(facts, note, vocab_size=rows, vocab_size_source="embedding")
    return facts


def _run(binding: Binding, facts: ModelFacts) -> tuple[Sight, Any]:
    examples = Examples(binding.signature, facts, device=device_of(binding.base))
    limit = facts.max_seq_len or _LENGTH
    batch = examples.batch(2, length=min(_LENGTH, limit))
    return watch(binding.base, batch, lambda: binding.call(batch))


def _from_refusal(refusal: Exception, recipe: Recipe, facts: ModelFacts) -> list[Recipe]:
    """A model that counts placeholders tells how many features it has."""
    if facts.image_token_id is None or recipe.pixels is None or "token" not in str(refusal):
        return []
    numbers = {int(each) for each in re.findall(r"\d+", str(refusal))}
    found = {
        each // share
        for each in numbers
        for share in (1, 2)
        if 0 < each // share <= 4096 and each % share == 0
    }
    return [replace(recipe, image_tokens=each) for each in sorted(found - {recipe.image_tokens})]


def _with_tables(binding: Binding, facts: ModelFacts, sight: Sight, width: int) -> ModelFacts:
    """Vocabulary, width, padding id and position limit as the tables have them."""
    table = sight.table("input_ids") or sight.table("decoder_input_ids")
    if table is not None and table.rows is not None and table.weight is not None:
        facts = _with_vocabulary(facts, table.rows, width)
        if facts.d_model is None and table.weight.dim() == 2:
            facts = replace(facts, d_model=int(table.weight.shape[1]))
        facts = _with_padding(binding.base, facts, table.weight)
        facts = _confirmed(binding, facts)
    limits = sight.position_limits
    if limits:
        facts = _with_limit(facts, min(limits))
    elif facts.max_seq_len is None and facts.recipe.length is None:
        facts = _probed_limit(binding, facts)
    if facts.recipe.length is not None:
        facts = replace(facts, max_seq_len=facts.recipe.length, max_seq_len_source="the only length it takes")
    return facts


def _with_vocabulary(facts: ModelFacts, rows: int, width: int) -> ModelFacts:
    if facts.vocab_size is None or facts.vocab_size_source == "embedding":
        return replace(facts, vocab_size=rows, vocab_size_source="embedding")
    if facts.vocab_size == rows:
        return replace(facts, vocab_size_source="config, confirmed by the embedding")
    if facts.vocab_size == width < rows:
        note = f"the embedding has {rows} rows for {width} ids, as the config and the output have them"
        return with_note(facts, note, vocab_size_source="config, confirmed by the output")
    note = f"the config says {facts.vocab_size} ids, the embedding that consumes them has {rows} rows"
    return with_note(facts, note, vocab_size=rows, vocab_size_source="embedding")


def _with_padding(module: nn.Module, facts: ModelFacts, weight: Tensor) -> ModelFacts:
    if facts.pad_token_id is not None:
        return facts
    for each in module.modules():
        if isinstance(each, nn.Embedding) and each.weight is weight and each.padding_idx is not None:
            return replace(facts, pad_token_id=each.padding_idx)
    return facts


def _confirmed(binding: Binding, facts: ModelFacts) -> ModelFacts:
    """The last id must be accepted and the next refused (which on CUDA would break the whole process)."""
    size = facts.vocab_size
    if size is None or device_of(binding.base).type != "cpu" or facts.recipe.image_tokens:
        return facts
    examples = Examples(binding.signature, facts, device=device_of(binding.base))
    batch = examples.batch(1, length=min(2, facts.max_seq_len or 2))
    name = "input_ids" if "input_ids" in batch else "decoder_input_ids"
    last, beyond = batch[name].clone(), batch[name].clone()
    last[:, 0], beyond[:, 0] = size - 1, size
    if isinstance(_quietly(binding, {**batch, name: last}), Exception):
        return with_note(facts, f"id {size - 1}, the last of the vocabulary, is refused")
    if not isinstance(_quietly(binding, {**batch, name: beyond}), Exception):
        return with_note(facts, f"id {size}, beyond the vocabulary, is accepted")
    return facts


def _with_limit(facts: ModelFacts, table: int) -> ModelFacts:
    if facts.max_seq_len is None:
        return replace(facts, max_seq_len=table, max_seq_len_source="position table")
    if table < facts.max_seq_len:
        note = f"the config says {facts.max_seq_len} positions, the position table holds {table}"
        return with_note(facts, note, max_seq_len=table, max_seq_len_source="position table")
    return facts


def _probed_limit(binding: Binding, facts: ModelFacts) -> ModelFacts:
    """No table is known: try a long input, and halve the distance to what is accepted."""
    if not binding.signature.has("ids") or facts.recipe.pixels is not None:
        return facts
    fits, fails = _LENGTH, 257
    if not isinstance(_at_length(binding, facts, fails), Exception):
        return facts
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if isinstance(_at_length(binding, facts, middle), Exception):
            fails = middle
        else:
            fits = middle
    return replace(facts, max_seq_len=fits, max_seq_len_source="probing")


def _at_length(binding: Binding, facts: ModelFacts, length: int) -> Any:
    return _quietly(
        binding, Examples(binding.signature, facts, device=device_of(binding.base)).batch(1, length)
    )


def _quietly(binding: Binding, batch: dict[str, Tensor]) -> Any:
    with quiet(binding.base):
        try:
            return binding.call(batch)
        except REFUSALS as refusal:
            return refusal


def _with_classes(facts: ModelFacts) -> ModelFacts:
    """A number of classes is one only if the model returns that many numbers."""
    if facts.num_classes is not None and facts.output_size == facts.num_classes != facts.vocab_size:
        return facts
    return replace(facts, num_classes=None)


def _with_all_positions(binding: Binding, facts: ModelFacts, output: Output) -> tuple[ModelFacts, Output]:
    """A model that answers for the last position only, unless it gets labels, gets them."""
    main = output.main
    one = main.dim() == 3 and main.shape[1] == 1 and main.shape[-1] == facts.vocab_size
    if not one or not binding.signature.has("labels") or not binding.signature.has("ids"):
        return facts, output
    batch = Examples(binding.signature, facts, device=device_of(binding.base)).batch(2, length=_LENGTH)
    labels = binding.signature.of_role("labels")[0]
    result = _quietly(binding, {**batch, labels.name: batch["input_ids"]})
    if isinstance(result, Exception) or read_output(result, facts).main.shape[1] != _LENGTH:
        return facts, output
    binding.always_label()
    note = f"{labels.name} is always given: without it the model answers for the last position only"
    return with_note(facts, note), read_output(result, facts)


def _with_layout(binding: Binding, facts: ModelFacts) -> ModelFacts:
    """Batch first or time first, inside and outside; by 3 rows of 5 tokens, which no square can hide."""
    sequence = binding.signature.has("ids") or binding.signature.has("embeddings")
    if not sequence or facts.recipe != Recipe() or (facts.max_seq_len or 5) < 5:
        return facts
    batch = Examples(binding.signature, facts, device=device_of(binding.base)).batch(3, length=5)
    main = _main(binding, batch, facts)
    if main is None or main.dim() != 3:
        return facts
    if main.shape[:2] == (5, 3):
        return with_note(facts, "outputs are time first; they are turned", output_layout="TBV")
    name = next(iter(batch))
    other = {key: value.clone() for key, value in batch.items()}
    other[name][0, 2] = (
        (other[name][0, 2] + 1) % (facts.vocab_size or 2) if facts.vocab_size else -other[name][0, 2]
    )
    changed_main = _main(binding, other, facts)
    if changed_main is None or main.shape[:2] != (3, 5):
        return facts
    changed = (main - changed_main).abs().amax(-1) > 1e-6 * main.abs().max()
    elsewhere, same_row = changed[1:], changed[0, [0, 1, 3, 4]]
    if (
        bool(elsewhere[:, 2].any())
        and not bool(elsewhere[:, [0, 1, 3, 4]].any())
        and not bool(same_row.any())
    ):
        binding.turn()
        note = "what goes in is time first: only the other entries of its column noticed a changed token"
        return with_note(facts, note, input_layout="TB", output_layout="TBV")
    return facts


def _main(binding: Binding, batch: dict[str, Tensor], facts: ModelFacts) -> Tensor | None:
    result = _quietly(binding, batch)
    return None if isinstance(result, Exception) else read_output(result, facts).main.float()


def _looks_ahead(binding: Binding, facts: ModelFacts) -> bool | None:
    """Change the last but one token: does an output before it change?"""
    examples = Examples(binding.signature, facts, device=device_of(binding.base))
    length = 8 if facts.max_seq_len is None else min(8, facts.max_seq_len)
    batch = examples.batch(1, length=length)
    name = "decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"
    if name not in batch or batch[name].shape[1] < 3 or facts.vocab_size is None:
        return None
    other = {key: value.clone() for key, value in batch.items()}
    place = other[name].shape[1] - 2
    other[name][:, place] = examples.batch(1, length=length, seed=1)[name][:, place]
    if torch.equal(other[name], batch[name]):
        other[name][:, place] = (other[name][:, place] + 1) % facts.vocab_size
    before, after = _quietly(binding, batch), _quietly(binding, other)
    if isinstance(before, Exception) or isinstance(after, Exception):
        return None
    a, b = read_output(before, facts).main.float(), read_output(after, facts).main.float()
    if a.dim() != 3 or a.shape != b.shape or a.shape[1] != batch[name].shape[1]:
        return None
    scale = float(a.abs().max())
    return bool((a[:, :place] - b[:, :place]).abs().max() > 1e-5 * max(scale, 1e-3))
