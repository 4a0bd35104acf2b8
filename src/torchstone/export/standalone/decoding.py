"""How a text is made token by token: what the next token is, when to stop, what may be shown already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Wrong(Exception):
    """What was asked for cannot be done; the message says why."""


class Sampling:
    """How the next token is chosen, and when to stop."""

    def __init__(
        self,
        max_new_tokens: int = 50,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        if max_new_tokens < 0 or temperature < 0 or (top_k is not None and top_k < 1):
            raise Wrong("--max-new-tokens and --temperature are 0 or more, --top-k is 1 or more")
        if top_p is not None and not 0 < top_p <= 1:
            raise Wrong(f"--top-p is above 0 and at most 1, not {top_p}")
        self.max_new_tokens, self.temperature, self.top_k, self.top_p = (
            max_new_tokens,
            temperature,
            top_k,
            top_p,
        )
        self.stop, self.seed = [each for each in stop if each], seed


class Stream:
    """One text on its way. `ended`: None while it runs; then eos, stop, length, or limit (a full decoder)."""

    def __init__(
        self,
        given: list[int],
        tokens: list[int],
        sampling: Sampling,
        random: np.random.Generator | None = None,
    ) -> None:
        self.given = given
        """What was asked; the encoder's ids where there is an encoder."""
        self.tokens = tokens
        """What the next token follows."""
        self.sampling = sampling
        self.random = np.random.default_rng(sampling.seed) if random is None else random
        self.made: list[int] = []
        self.text = ""
        self.ended: str | None = None if sampling.max_new_tokens else "length"

    def shown(self) -> str:
        """The text without what a later token may still change: half a character, the beginning of a stop."""
        if self.ended is not None:
            return self.text
        text = self.text.rstrip("\ufffd")
        held = (n for stop in self.sampling.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return text[: len(text) - max(held, default=0)]


def choose(
    logits: np.ndarray, sampling: Sampling, random: np.random.Generator, num_ids: int | None = None
) -> int:
    """Temperature first, then top-k, then top-p (Holtzman et al. 2019); a temperature of 0 is greedy."""
    logits = logits[:num_ids].astype(np.float64)
    if np.isnan(logits).any() or not np.isfinite(logits).any():
        raise Wrong("the model's next-token logits are no numbers")
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < len(logits):
        logits = np.where(logits < np.sort(logits)[-sampling.top_k], -np.inf, logits)
    if sampling.top_p is not None:
        order = np.argsort(-logits, kind="stable")
        ranked = softmax(logits)[order]
        # A token stays while those before it are not enough; so the first one always does.
        logits[order[ranked.cumsum() - ranked >= sampling.top_p]] = -np.inf
    return int(random.choice(len(logits), p=softmax(logits)))


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    return np.asarray(shares / shares.sum())
