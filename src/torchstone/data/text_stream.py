"""Tokens to text while they come: whole characters only, and nothing of a stop string.

    stream = TextStream(tokenizer, stops=["\\n\\n"])
    for token in tokens:
        print(stream.add(token), end="")
        if stream.stopped:
            break
    print(stream.end())

A character may be spread over several tokens and a stop string too, so what could still become part of one is
held back until it is decided. The pieces together are the text of all tokens up to the stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torchstone._errors import UsageError

UNDECIDED = 3
"""An unfinished UTF-8 character has at most three bytes, shown as at most so many replacement characters."""
WINDOW = 16
"""Tokens decoded together: enough to the left for a decoder that looks at its neighbours."""


class Decoder(Protocol):
    def decode(self, ids: Sequence[int]) -> str: ...


class TextStream:
    """The text of one growing sequence of tokens."""

    def __init__(self, tokenizer: Decoder, stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise UsageError("an empty stop string would stop at once", next="leave it out")
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self.text = ""
        """Everything that was given out."""
        self.stopped: str | None = None
        """The stop string that ended the text; it is not part of it."""
        self._ids: list[int] = []
        """Tokens of the window."""
        self._shown = 0
        """Characters of the window that were taken out of it."""
        self._held = ""
        """Taken out of the window, but perhaps the beginning of a stop string."""

    def add(self, token_id: int) -> str:
        """The text that is decided now; empty while a character or a stop string is undecided."""
        if self.stopped is not None:
            return ""
        self._ids.append(int(token_id))
        window = self.tokenizer.decode(self._ids)
        return self._give(self._take(window, len(window) - _num_undecided(window)), last=False)

    def end(self) -> str:
        """What was held back; call it once, when no more tokens come."""
        if self.stopped is not None:
            return ""
        window = self.tokenizer.decode(self._ids)
        return self._give(self._take(window, len(window)), last=True)

    def _take(self, window: str, decided: int) -> str:
        new = window[self._shown : decided]
        self._shown = max(self._shown, decided)
        if len(self._ids) > 2 * WINDOW and self._shown == len(window):
            kept = self._ids[-WINDOW:]
            # A window must not begin inside a character; it would show as a replacement character.
            text = self.tokenizer.decode(kept)
            if window.endswith(text):
                self._ids, self._shown = kept, len(text)
        return new

    def _give(self, new: str, *, last: bool) -> str:
        ready = self._held + new
        places = [(place, stop) for stop in self.stops if (place := ready.find(stop)) >= 0]
        if places:
            place, self.stopped = min(places)
            given, self._held = ready[:place], ""
        else:
            held = 0 if last else max((_overlap(ready, stop) for stop in self.stops), default=0)
            given, self._held = ready[: len(ready) - held], ready[len(ready) - held :]
        self.text += given
        return given


def _num_undecided(text: str) -> int:
    """Replacement characters at the end that the next tokens may still turn into one real character."""
    run = len(text) - len(text.rstrip("\ufffd"))
    return min(run, UNDECIDED)


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that could be the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
