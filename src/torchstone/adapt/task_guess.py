"""What a model is for, read from its signature, its configuration and its behaviour; uncertainty is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchstone.adapt.facts import ModelFacts
from torchstone.adapt.signature import Signature


@dataclass(frozen=True)
class TaskGuess:
    """A kind, how sure we are, and why."""

    kind: str
    certain: bool
    reasons: tuple[str, ...] = ()


def guess_task(signature: Signature, facts: ModelFacts, binding: Any = None) -> TaskGuess:
    """First form: by inputs and by the size of the output."""
    if signature.has("ids"):
        if facts.output_size is not None and facts.output_size == facts.vocab_size:
            return TaskGuess("causal-lm", True, ("the output is as wide as the vocabulary",))
        return TaskGuess("encoder", False, ("ids come in, the output is not as wide as the vocabulary",))
    if signature.has("pixels"):
        return TaskGuess("vision", True, ("pixels come in",))
    if signature.has("audio"):
        return TaskGuess("audio", True, ("audio comes in",))
    return TaskGuess("encoder", False, ("vectors come in",))
