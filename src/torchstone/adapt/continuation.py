"""Continue a text: prompt -> ids -> new tokens -> text, piece by piece while it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from torchstone._errors import DataError
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.facts import device_of
from torchstone.adapt.generate import Sampling, decode
from torchstone.data.text_stream import TextStream


@dataclass(kw_only=True)
class Sample:
    """One continuation."""

    text: str | None
    """None where bare ids were continued."""
    ids: list[int] = field(default_factory=list)
    """The new tokens, the end token included."""
    ended: str = "length"
    """length (max_new_tokens), eos, stop (a stop string), or limit (the decoder is full)."""
    stop: str | None = None


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What came of one prompt."""

    prompt_ids: list[int]
    samples: list[Sample]
    seconds: float
    notes: list[str]

    @property
    def num_tokens(self) -> int:
        return sum(len(each.ids) for each in self.samples)


def continue_text(
    adapter: Adapter,
    tokenizer: Any,
    prompt: str | Sequence[int],
    sampling: Sampling,
    *,
    stops: Sequence[str] = (),
    num_samples: int = 1,
    marked: bool = False,
    on_text: Callable[[int, str], None] = lambda sample, piece: None,
) -> Continuation:
    """Continue `prompt` (text, or ids where there is no tokenizer) `num_samples` times.

    `marked` gives the prompt the marks of the tokenizer's own template. `on_text(sample, piece)` hears each
    piece of text as soon as it is decided.
    """
    notes: list[str] = []
    ids = [*prompt] if not isinstance(prompt, str) else prompt_ids(adapter, tokenizer, prompt, marked=marked)
    _require_known(ids, adapter.facts.vocab_size)
    start = torch.tensor([ids], device=device_of(adapter.base)).expand(num_samples, -1)
    samples = [Sample(text=None if tokenizer is None else "") for _ in range(num_samples)]
    streams = [None if tokenizer is None else TextStream(tokenizer, stops) for _ in samples]
    running = set(range(num_samples))
    began = time.monotonic()
    num_steps = 0
    for column in decode(adapter, start, sampling, notes):
        num_steps += 1
        new = column.tolist()
        for number in sorted(running):
            _add(
                samples[number],
                streams[number],
                new[number],
                sampling,
                partial(on_text, number),
            )
            if samples[number].ended != "length":
                running.discard(number)
        if not running:
            break
    for number in sorted(running):
        if num_steps < sampling.max_new_tokens:
            samples[number].ended = "limit"
        _close(samples[number], streams[number], partial(on_text, number))
    return Continuation(prompt_ids=ids, samples=samples, seconds=time.monotonic() - began, notes=notes)


def prompt_ids(adapter: Adapter, tokenizer: Any, prompt: str, *, marked: bool = False) -> list[int]:
    """The ids of a prompt; an empty one begins where a document begins."""
    encode = getattr(tokenizer, "encode_marked", None) if marked else None
    ids = list(tokenizer.encode(prompt) if encode is None else encode(prompt))
    eos = tokenizer.eos_token_id
    if adapter.is_causal_lm and prompt and len(ids) > 1 and eos is not None and encode and ids[-1] == eos:
        ids.pop()  # behind an end mark another text would begin
    if ids:
        return ids
    # What stands before the first token of a document is the end of the one before it.
    return [eos] if eos is not None else list(tokenizer.encode("\n"))


def _add(
    sample: Sample, stream: TextStream | None, token: int, sampling: Sampling, tell: Callable[[str], None]
) -> None:
    sample.ids.append(token)
    if token == sampling.eos_token_id:
        sample.ended = "eos"
        _close(sample, stream, tell)
        return
    if stream is None:
        return
    tell(stream.add(token))
    sample.text = stream.text
    if stream.stopped is not None:
        sample.ended, sample.stop = "stop", stream.stopped


def _close(sample: Sample, stream: TextStream | None, tell: Callable[[str], None]) -> None:
    if stream is None:
        return
    tell(stream.end())
    sample.text = stream.text
    if stream.stopped is not None:
        sample.ended, sample.stop = "stop", stream.stopped


def _require_known(ids: Sequence[int], vocab_size: int | None) -> None:
    wrong = [each for each in ids if each < 0 or (vocab_size is not None and each >= vocab_size)]
    if wrong:
        raise DataError(
            f"token id {wrong[0]} is outside the model's vocabulary",
            why="ids are 0 or more"
            if vocab_size is None
            else f"the model knows the ids 0 to {vocab_size - 1}",
            next="use the tokenizer that belongs to the model: --tokenizer FILE",
        )
