"""Continue token sequences with a model; the one generator of the house.

    ids = generate(adapter, prompt, 50, temperature=0.8, top_k=40, seed=0)     # (B, T) -> (B, T + n)
    for new in decode(adapter, prompt, Sampling(max_new_tokens=50)):           # (B,), one after the other
        ...

A causal model continues its prompt, a sequence-to-sequence model answers it. Where the model has a cache it
is used, after its first step was compared with the full pass; a cache that disagrees is left alone, and the
text is the same as without. A causal model never sees more tokens than its limit: the oldest leave first.

Letters: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone._errors import ModelError, UsageError
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.cache import asking, cache_argument, cache_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CACHE_TOLERANCE = 1e-3
"""Share of the logits' spread by which a cached step may differ from the full pass: rounding, not fault."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and when to stop."""

    max_new_tokens: int = 50
    temperature: float = 1.0
    """0 takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Only the k likeliest tokens."""
    top_p: float | None = None
    """Only the fewest likeliest tokens that together have this probability (Holtzman et al. 2019)."""
    seed: int | None = None
    eos_token_id: int | None = None
    """A sequence that has made this token is over."""
    num_ids: int | None = None
    """Only ids below it are made: rows of the embedding that the tokenizer has no text for stay unused."""
    use_cache: bool = True

    def __post_init__(self) -> None:
        wrong = (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 0, "0 or more"),
            ("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
        )
        for name, value, fits, legal in wrong:
            if not fits:
                raise UsageError(f"{name} must be {legal}, not {value}")


def generate(
    adapter: Adapter,
    ids: Int[Tensor, "B T"],
    max_new_tokens: int = 50,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    eos_token_id: int | None = None,
    *,
    top_p: float | None = None,
    num_ids: int | None = None,
    use_cache: bool = True,
) -> Int[Tensor, "B N"]:
    """`ids` and up to `max_new_tokens` more (a sequence-to-sequence model: only its answer)."""
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        eos_token_id=eos_token_id,
        num_ids=num_ids,
        use_cache=use_cache,
    )
    made = [each[:, None] for each in decode(adapter, ids, sampling)]
    given = [] if adapter.task.kind == "seq2seq" else [ids]
    return torch.cat([*given, *made], dim=1) if given or made else ids[:, :0]


def decode(
    adapter: Adapter, ids: Int[Tensor, "B T"], sampling: Sampling, notes: list[str] | None = None
) -> Iterator[Int[Tensor, " B"]]:
    """The new tokens, one column at a time; what a reader should know is appended to `notes`.

    Modes of the modules and torch's own generators are afterwards as they were.
    """
    source = _source(adapter, ids, sampling, [] if notes is None else notes)
    generator = torch.Generator(device=ids.device)
    generator.manual_seed(torch.seed() if sampling.seed is None else sampling.seed)
    return _steps(adapter, source, sampling, generator)


def _steps(
    adapter: Adapter, source: _Source, sampling: Sampling, generator: torch.Generator
) -> Iterator[Int[Tensor, " B"]]:
    modes = [(each, each.training) for each in adapter.module.modules()]
    end = sampling.eos_token_id
    ended = torch.zeros(source.ids.shape[0], dtype=torch.bool, device=source.ids.device)
    adapter.module.eval()
    try:
        for _ in range(sampling.max_new_tokens):
            if source.is_full:
                return
            with torch.no_grad():
                chosen = choose(source.next_logits(), sampling, generator)
            if end is not None:
                chosen = torch.where(ended, end, chosen)
                ended |= chosen == end
            source.append(chosen)
            yield chosen
            if bool(ended.all()):
                return
    finally:
        for each, training in modes:
            each.training = training


def choose(
    logits: Float[Tensor, "B V"], sampling: Sampling, generator: torch.Generator | None = None
) -> Int[Tensor, " B"]:
    """One id per row: temperature first, then top-k, then top-p."""
    logits = logits[:, : sampling.num_ids].float()
    if not bool(torch.isfinite(logits).any(dim=-1).all()) or bool(logits.isnan().any()):
        raise ModelError(
            "the model's next-token logits are no numbers",
            why="NaN, or nothing but infinities",
            next="torchstone check TARGET --only numerical-stability",
        )
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None:
        ranked, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        # A token stays while those before it are not enough; so the first one always does.
        beyond = ranked.cumsum(dim=-1) - ranked >= sampling.top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]


# --- what the model is given at each step -------------------------------------------------------


def _source(adapter: Adapter, ids: Tensor, sampling: Sampling, notes: list[str]) -> _Source:
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise UsageError(
            f"a prompt of shape {tuple(ids.shape)} cannot be continued",
            why="ids are (B, T) with T of 1 or more",
        )
    if adapter.task.kind == "causal-lm":
        return _Source(adapter, {}, "input_ids", ids, sampling.use_cache, notes)
    if adapter.task.kind == "seq2seq":
        return _answer(adapter, ids, sampling, notes)
    raise ModelError(
        f"cannot generate: the task is {adapter.task.kind}",
        why="only a causal or a sequence-to-sequence language model makes text",
        next="say what it is, if the guess is wrong: --task causal-lm (adapt(module, task='causal-lm'))",
    )


def _answer(adapter: Adapter, ids: Tensor, sampling: Sampling, notes: list[str]) -> _Source:
    facts = adapter.facts
    start = facts.decoder_start_token_id
    start = facts.pad_token_id if start is None else start
    if start is None:
        raise ModelError(
            "the decoder needs a first token",
            why="the model's config has neither decoder_start_token_id nor pad_token_id",
        )
    first = torch.full((ids.shape[0], 1), start, device=ids.device)
    return _Source(adapter, {"input_ids": ids}, "decoder_input_ids", first, sampling.use_cache, notes)


class _Source:
    """The growing sequence under the name `stream`, and the logits behind its last token."""

    def __init__(
        self,
        adapter: Adapter,
        fixed: dict[str, Tensor],
        stream: str,
        ids: Int[Tensor, "B T"],
        use_cache: bool,
        notes: list[str],
    ) -> None:
        self.adapter = adapter
        self.fixed = fixed
        self.stream = stream
        self.ids = ids
        self.notes = notes
        self.limit = adapter.facts.max_seq_len
        self.slides = stream == "input_ids"
        self._argument = cache_argument(adapter.signature) if use_cache else None
        self._cache: Any = None
        self._num_cached = 0
        self._proven = False

    @property
    def is_full(self) -> bool:
        """A decoder at its limit stops: its answer has no oldest token that could be forgotten."""
        if self.slides or self.limit is None or self.ids.shape[1] < self.limit:
            return False
        self._note(f"stopped: the decoder takes {self.limit} tokens")
        return True

    def append(self, chosen: Int[Tensor, " B"]) -> None:
        self.ids = torch.cat([self.ids, chosen[:, None]], dim=1)

    def next_logits(self) -> Float[Tensor, "B V"]:
        length = self.ids.shape[1]
        if self.limit is not None and length > self.limit:
            # Every token takes another place in the window, so nothing that was cached holds any more.
            self._note(f"the model sees the last {self.limit} tokens only")
            self._argument = self._cache = None
            return self._full(self.ids[:, -self.limit :])
        if self._argument is None:
            return self._full(self.ids)
        if self._cache is None:
            return self._begin_cache()
        step = self._cached_step()
        if not self._proven:
            full = self._full(self.ids)
            self._proven = True
            spread = float(full.float().std()) or 1.0
            if not float((step.float() - full.float()).abs().max()) <= CACHE_TOLERANCE * spread:
                self._note(
                    "the model's cache disagrees with its full pass and is not used (see cache-parity)"
                )
                self._argument = self._cache = None
                return full
        return step

    def _full(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        return self.adapter(**self.fixed, **{self.stream: ids}).main[:, -1]

    def _begin_cache(self) -> Float[Tensor, "B V"]:
        assert self._argument is not None
        output = self.adapter(**self.fixed, **{self.stream: self.ids}, **asking(self.adapter.signature))
        self._cache = cache_of(output, self._argument)
        self._num_cached = self.ids.shape[1]
        if self._cache is None:  # it takes one but gives none
            self._argument = None
        return output.main[:, -1]

    def _cached_step(self) -> Float[Tensor, "B V"]:
        assert self._argument is not None
        new = {self.stream: self.ids[:, self._num_cached :], self._argument: self._cache}
        output = self.adapter(**self.fixed, **new, **asking(self.adapter.signature))
        self._cache = cache_of(output, self._argument)
        self._num_cached = self.ids.shape[1]
        return output.main[:, -1]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
