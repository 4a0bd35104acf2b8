"""Documents to ids on all cores, in order, by the fastest engine whose ids are the tokenizer's own.

    encoder = make_encoder(tokenizer, sample)
    for chunk in encoder.chunks(documents):
        chunk.ids, chunk.ends

`sample` is encoded both ways before anything else, and so is the beginning of every later chunk. One id that
differs, and the tokenizer's own engine does all of it; that is told. Memory holds a few chunks, never more.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from torchstone._errors import DataError
from torchstone.data.byte_tokenizer import bytes_of
from torchstone.data.merge_engine import Ids, MergeEngine, NoEngine, build_engine
from torchstone.data.source import Document
from torchstone.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CHUNK_CHARACTERS = 1 << 18
"""Text that one thread encodes at a time."""
SAMPLE_CHARACTERS = 1 << 16
"""Text that is encoded both ways at the start."""
PROBE_CHARACTERS = 1 << 10
"""Text of each later chunk that is encoded both ways."""


class OtherIds(Exception):
    """The fast engine gave an id that the tokenizer does not give."""


@dataclass(frozen=True)
class Chunk:
    """Some documents in a row, encoded."""

    ids: Ids
    """With the end-of-document token behind each document that ends."""
    ends: Ids
    """Where a document is over: places in `ids`, each the one after its last token."""
    num_pieces: int
    """Documents, or pieces of them, that went in."""
    num_text_bytes: int


class Encoder:
    """`tokenizer` as a stream of chunks; an `engine` works on every core."""

    def __init__(self, tokenizer: Tokenizer, engine: MergeEngine | None, why: str = "") -> None:
        self.tokenizer = tokenizer
        self.engine = engine
        self.why = why
        """Why there is no engine."""
        self.dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)

    @property
    def name(self) -> str:
        return "tokenizer" if self.engine is None else "tiktoken"

    def chunks(self, documents: Iterable[Document]) -> Generator[Chunk, None, None]:
        """OtherIds where the engine is found to differ: what came before is then not to be trusted."""
        grouped = _grouped(documents, CHUNK_CHARACTERS)
        if self.engine is None:
            yield from map(self._encoded, grouped)
            return
        num_threads = num_cores()
        waiting: deque[Future[Chunk]] = deque()
        with ThreadPoolExecutor(num_threads, thread_name_prefix="encode") as pool:
            try:
                for group in grouped:
                    waiting.append(pool.submit(self._encoded, group))
                    if len(waiting) > 2 * num_threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for each in waiting:
                    each.cancel()

    def _encoded(self, documents: Sequence[Document]) -> Chunk:
        texts = [document.text for document in documents]
        sizes = [len(bytes_of(text)) for text in texts]
        if self.engine is None:
            encoded = [self._narrowed(ids) for ids in self.tokenizer.encode_batch(texts)]
        else:
            _compare(self.engine, self.tokenizer, texts[0][:PROBE_CHARACTERS])
            encoded = [self._fast(text, size) for text, size in zip(texts, sizes, strict=True)]
        eos = self.tokenizer.eos_token_id
        mark = np.array([] if eos is None else [eos], dtype=self.dtype)
        parts: list[Ids] = []
        ends: list[int] = []
        length = 0
        for document, ids in zip(documents, encoded, strict=True):
            parts.append(ids)
            length += len(ids)
            if document.ends:
                parts.append(mark)
                length += len(mark)
                ends.append(length)
        return Chunk(np.concatenate(parts), np.array(ends, dtype=np.int64), len(documents), sum(sizes))

    def _fast(self, text: str, num_bytes: int) -> Ids:
        assert self.engine is not None
        ids = self.engine.encode(text)
        if ids is None:
            return self._narrowed(self.tokenizer.encode(text))
        if int(self.engine.bytes_of_id[ids].sum(dtype=np.int64)) != num_bytes:
            raise OtherIds(f"its tokens do not make up a text of {num_bytes} bytes")
        return ids.astype(self.dtype, copy=False)

    def _narrowed(self, ids: Sequence[int]) -> Ids:
        wide = np.array(ids, dtype=np.int64)
        limit = self.tokenizer.vocab_size
        if len(wide) and not 0 <= int(wide.min()) <= int(wide.max()) < limit:
            wrong = int(wide.max() if wide.max() >= limit else wide.min())
            raise DataError(f"the tokenizer gave id {wrong} and says it has {limit} entries")
        return wide.astype(self.dtype)


def make_encoder(tokenizer: Tokenizer, sample: Iterable[str]) -> Encoder:
    """The fastest encoder that gives the ids of `tokenizer` on `sample`."""
    library = getattr(tokenizer, "library", None)
    if library is None:
        return Encoder(tokenizer, None, "it is no BPE of the tokenizers library")
    try:
        engine = build_engine(library)
    except NoEngine as reason:
        log.info("text is encoded by the tokenizer itself, not by tiktoken: %s", reason)
        return Encoder(tokenizer, None, str(reason))
    left = SAMPLE_CHARACTERS
    try:
        for text in sample:
            _compare(engine, tokenizer, text[:left])
            left -= len(text)
            if left <= 0:
                break
    except OtherIds as problem:
        return without_engine(tokenizer, problem)
    return Encoder(tokenizer, engine)


def without_engine(tokenizer: Tokenizer, problem: OtherIds) -> Encoder:
    log.warning("tiktoken's ids are not the tokenizer's, which encodes by itself, slower: %s", problem)
    return Encoder(tokenizer, None, str(problem))


def _compare(engine: MergeEngine, tokenizer: Tokenizer, text: str) -> None:
    ids = engine.encode(text)
    if ids is None:
        return
    expected = tokenizer.encode(text)
    found = ids.tolist()
    if found == expected:
        return
    place = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(found), len(expected)) if place is None else place
    raise OtherIds(
        f"token {place} is {found[place : place + 1]} and not {expected[place : place + 1]} "
        f"near {tokenizer.decode(expected[max(0, place - 3) : place + 3])!r}"
    )


def _grouped(documents: Iterable[Document], num_characters: int) -> Iterator[list[Document]]:
    held: list[Document] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document.text)
        if size >= num_characters:
            yield held
            held, size = [], 0
    if held:
        yield held


def num_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
