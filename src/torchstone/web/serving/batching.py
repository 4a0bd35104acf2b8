"""Requests wait for each other and go through the model together, in one thread.

Rows of a classifier or an encoder are gathered for a window, then answered by one pass. Texts are made token
by token: each pass takes every text that is under way, so a new one joins at the next token and none waits
for the end of another. Neighbours change an answer by rounding only: each text draws from its own seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torchstone.export.standalone.decoding import Stream, Wrong
from torchstone.export.standalone.inference import Predictor

T = TypeVar("T")
log = logging.getLogger("torchstone.serving")


class Failed(Exception):
    """The model broke on a batch; the log has the traceback."""


@dataclass(eq=False)
class Text:
    """One text under way, as its reader sees it between two passes."""

    stream: Stream
    changed: asyncio.Event
    shown: str = ""
    ended: str | None = None
    error: Exception | None = None
    abandoned: bool = False

    @property
    def over(self) -> bool:
        return self.ended is not None or self.error is not None


@dataclass
class Batcher:
    """Owner of the model. `run` is its loop; requests call `answer` and `texts`."""

    predictor: Predictor
    max_batch: int
    window_s: float
    observe: Callable[[int], None] = lambda rows: None
    """Called with the size of each batch."""
    _rows: deque[tuple[Any, asyncio.Future[dict[str, Any]]]] = field(default_factory=deque)
    _waiting: deque[Text] = field(default_factory=deque)
    _active: list[Text] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _full: asyncio.Event = field(default_factory=asyncio.Event)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "model"))

    @property
    def depth(self) -> int:
        """Inputs that wait or run."""
        return len(self._rows) + len(self._waiting) + len(self._active)

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        try:
            while True:
                await self._wake.wait()
                if self._rows:
                    await self._one_batch()
                if self._waiting or self._active:
                    await self._one_token()
                if not self.depth:
                    self._wake.clear()
        finally:
            self._thread.shutdown(wait=False)

    # --- rows: one pass each ----------------------------------------------------------------------

    async def answer(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Records of rows of ids, or of pixels, in their order. Errors: Wrong, Failed."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in rows]
        self._rows.extend(zip(rows, futures, strict=True))
        self._wake.set()
        if len(self._rows) >= self.max_batch:
            self._full.set()
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for each in futures:
                each.cancel()  # nobody waits any more: the next batch leaves it out

    async def _one_batch(self) -> None:
        if len(self._rows) < self.max_batch and self.window_s:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self.window_s)
        batch: list[tuple[Any, asyncio.Future[dict[str, Any]]]] = []
        while self._rows and len(batch) < self.max_batch:
            row, future = self._rows.popleft()
            if not future.done():
                batch.append((row, future))
        if not batch:
            return
        self.observe(len(batch))
        for (_, future), found in zip(batch, await self._pass([row for row, _ in batch]), strict=True):
            if isinstance(found, Exception) and not future.done():
                future.set_exception(found)
            elif not future.done():
                future.set_result(found)

    async def _pass(self, rows: list[Any]) -> list[Any]:
        """A record for each row, or the same exception for all."""
        answer = self.predictor.look if self.predictor.task == "vision" else self.predictor.answer
        try:
            return await self._in_thread(lambda: answer(rows))
        except Exception as trouble:  # whatever a runtime raises; each request is told
            return [_told(trouble)] * len(rows)

    # --- texts: a pass per token ------------------------------------------------------------------

    async def texts(self, streams: Sequence[Stream]) -> AsyncIterator[list[Text]]:
        """All texts of a request, again after every token, until each is over."""
        changed = asyncio.Event()
        texts = [Text(each, changed, ended=each.ended) for each in streams]
        self._waiting.extend(each for each in texts if not each.over)
        self._wake.set()
        try:
            while not all(each.over for each in texts):
                await changed.wait()
                changed.clear()
                yield texts
            yield texts
        finally:
            for each in texts:
                each.abandoned = True

    async def _one_token(self) -> None:
        self._active = [each for each in self._active if not each.abandoned and not each.over]
        while self._waiting and len(self._active) < self.max_batch:
            text = self._waiting.popleft()
            if not text.abandoned:
                self._active.append(text)
        active = self._active
        if not active:
            return
        self.observe(len(active))
        try:
            errors = await self._in_thread(lambda: self._step([each.stream for each in active]))
        except Exception as trouble:  # as above
            errors = [_told(trouble)] * len(active)
        for text, error in zip(active, errors, strict=True):
            text.shown, text.ended, text.error = text.stream.shown(), text.stream.ended, error
            text.changed.set()
        self._active = [each for each in active if not each.over]

    def _step(self, streams: list[Stream]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        for stream, logits in zip(streams, self.predictor.next_logits(streams), strict=True):
            errors.append(_trial(lambda stream=stream, logits=logits: self.predictor.take(stream, logits)))  # type: ignore[misc]
        return errors

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _trial(call: Callable[[], None]) -> Exception | None:
    try:
        call()
    except (Wrong, ValueError) as trouble:  # one text's logits are no numbers: the others go on
        return _told(trouble)
    return None


def _told(trouble: Exception) -> Exception:
    if isinstance(trouble, Wrong):
        return trouble
    log.error("the model failed", exc_info=trouble, extra={"event": "failed"})
    return Failed("the model failed on this input")
