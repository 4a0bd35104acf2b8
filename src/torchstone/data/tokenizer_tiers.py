"""Which tokenizer: four tiers, and a chain of fall-backs that ends in one that always works.

    choice = choose_tokenizer(50304, lambda: texts, prefer="pretrained")
    choice.tokenizer, choice.tier, choice.reason, choice.fallbacks

1 pretrained[:NAME]   a known family by the embedding's rows, or by name, from the hub's cache or the hub
2 auto, bpe           byte-level BPE trained on the texts
3 char, bytes         characters or bytes; needs neither library nor network
4 a path              the user's own file; never replaced by another, for that would be a different model

A tier that cannot be had gives way to the next, and `fallbacks` says why. A size that several families use
is not guessed: it is refused with their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torchstone._errors import ConfigError, DataError, MissingExtra, Offline
from torchstone.data.char_tokenizer import MIN_VOCAB_SIZE, CharTokenizer
from torchstone.data.known_tokenizers import KNOWN_TOKENIZERS, KnownTokenizer, candidates, the_one_for
from torchstone.data.tokenizer import Tokenizer, load_tokenizer

Texts = Callable[[], Iterable[str]]
Fetch = Callable[[str], Tokenizer]
SMALLEST_BPE = 256 + 2


@dataclass(frozen=True)
class Choice:
    tokenizer: Tokenizer
    tier: int
    kind: str
    """pretrained, bpe, char, bytes, file."""
    reason: str
    """One sentence: what was taken and why."""
    fallbacks: tuple[str, ...] = ()
    """What was tried before, and why it could not be had."""


def choose_tokenizer(
    vocab_size: int,
    texts: Texts | None = None,
    *,
    prefer: str = "auto",
    train: Callable[[int], Tokenizer] | None = None,
    fetch: Fetch | None = None,
    limit: int | None = None,
) -> Choice:
    """A tokenizer of at most `limit` entries (None: no embedding to fit), `vocab_size` where it can be made.

    `train` and `fetch` replace the training of a BPE and the way to the hub (a cache, a test).
    """
    fallbacks: list[str] = []
    kind, _, name = prefer.partition(":")
    if kind == "pretrained":
        choice = _pretrained(vocab_size, name, fetch or _fetch, fallbacks)
    elif prefer in ("auto", "bpe"):
        choice = None
    elif prefer in ("char", "bytes"):
        choice = _without_library(prefer, vocab_size, texts)
    else:
        own = load_tokenizer(Path(prefer))
        choice = Choice(own, 4, "file", f"{prefer}, as given: {own.vocab_size} entries")
    choice = choice or _trained(vocab_size, texts, train, fallbacks, must=prefer == "bpe")
    choice = choice or _without_library("char", vocab_size, texts)
    _require_fit(choice.tokenizer, limit, prefer)
    return Choice(choice.tokenizer, choice.tier, choice.kind, choice.reason, tuple(fallbacks))


def _pretrained(vocab_size: int, name: str, fetch: Fetch, fallbacks: list[str]) -> Choice | None:
    known = _known(vocab_size, name, fallbacks)
    hub_name = known.hub if known else name
    if not hub_name:
        return None
    try:
        tokenizer = fetch(hub_name)
    except (MissingExtra, Offline, DataError) as absent:  # the last: a licence that nobody accepted
        if name:
            raise
        fallbacks.append(f"{hub_name} could not be had: {absent.what}")
        return None
    told = f"{hub_name}, {tokenizer.vocab_size} entries"
    if known and not name:
        told += f": the tokenizer used with {vocab_size} rows ({known.source})"
        others = sorted({each.name for each in candidates(vocab_size) if each.same_ids != known.same_ids})
        if others:
            told += f"; {', '.join(others)} use that size too: a pretrained model needs its own"
    return Choice(tokenizer, 1, "pretrained", told)


def _known(vocab_size: int, name: str, fallbacks: list[str]) -> KnownTokenizer | None:
    if name:
        return KNOWN_TOKENIZERS.get(name) if name in KNOWN_TOKENIZERS else None
    one = the_one_for(vocab_size)
    if one is not None:
        return one
    several = candidates(vocab_size)
    if several:
        names = ", ".join(f"pretrained:{each.name}" for each in several)
        raise ConfigError(
            f"{vocab_size} rows are used with more than one tokenizer",
            why="their ids mean different texts, so none is guessed",
            next=f"--set data.tokenizer= one of {names}",
        )
    fallbacks.append(f"no known family has {vocab_size} rows or tokens")
    return None


def _trained(
    vocab_size: int,
    texts: Texts | None,
    train: Callable[[int], Tokenizer] | None,
    fallbacks: list[str],
    *,
    must: bool,
) -> Choice | None:
    if vocab_size < SMALLEST_BPE and not must:
        if vocab_size < MIN_VOCAB_SIZE:
            return None  # the characters say what is too small
        fallbacks.append(f"a BPE needs {SMALLEST_BPE} entries for its bytes, and there are {vocab_size}")
        return None
    if texts is None:
        fallbacks.append("there is no text to train a BPE on")
        return None
    try:
        if train is None:
            from torchstone.data.bpe import train_bpe

            tokenizer: Tokenizer = train_bpe(texts(), vocab_size)
        else:
            tokenizer = train(vocab_size)
    except MissingExtra as absent:
        if must:
            raise
        fallbacks.append(f"a BPE could not be trained: {absent.what} ({absent.next})")
        return None
    reason = f"a BPE trained on the text, {tokenizer.vocab_size} entries"
    if tokenizer.vocab_size < vocab_size:
        reason += f" of {vocab_size}: the text holds no further pair that occurs twice"
    return Choice(tokenizer, 2, "bpe", reason)


def _without_library(kind: str, vocab_size: int, texts: Texts | None) -> Choice:
    if kind == "bytes":
        from torchstone.data.byte_tokenizer import ByteTokenizer

        return Choice(ByteTokenizer(), 3, "bytes", "bytes, 258 entries")
    tokenizer = CharTokenizer.build(vocab_size, texts() if texts is not None else ())
    return Choice(
        tokenizer, 3, "char", f"characters, {tokenizer.vocab_size} entries, and bytes for the others"
    )


def _require_fit(tokenizer: Tokenizer, limit: int | None, prefer: str) -> None:
    if limit is not None and tokenizer.vocab_size > limit:
        raise DataError(
            f"the tokenizer {prefer} is larger than the model's vocabulary",
            why=f"it has {tokenizer.vocab_size} entries, the embedding {limit} rows",
            next=f"--set model.vocab_size={tokenizer.vocab_size}, or use --set data.tokenizer=auto",
        )


def _fetch(name: str) -> Tokenizer:
    from torchstone.data.hub_tokenizer import fetch_tokenizer

    return fetch_tokenizer(name)
