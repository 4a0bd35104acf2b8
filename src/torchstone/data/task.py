"""What a model is asked to do: one small record that drives example inputs, batches and loss.

    TaskSpec.language_modeling(vocab_size=4096, max_length=256)
    TaskSpec.from_name("vision")

Nothing here computes. A field of None means: the model or the data will tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchstone._errors import UsageError
from torchstone._registry import suggest

KINDS = (
    "causal-lm",
    "masked-lm",
    "encoder",
    "classification",
    "token-classification",
    "question-answering",
    "seq2seq",
    "vision",
    "audio",
    "multimodal",
    "regression",
)
# What users of other tools call the same things.
ALIASES = {
    "lm": "causal-lm",
    "clm": "causal-lm",
    "language-modeling": "causal-lm",
    "text-generation": "causal-lm",
    "mlm": "masked-lm",
    "fill-mask": "masked-lm",
    "text-classification": "classification",
    "sequence-classification": "classification",
    "ner": "token-classification",
    "qa": "question-answering",
    "extractive-question-answering": "question-answering",
    "translation": "seq2seq",
    "summarization": "seq2seq",
    "vision-classification": "vision",
    "image-classification": "vision",
}
TEXT_KINDS = (
    "causal-lm",
    "masked-lm",
    "encoder",
    "classification",
    "token-classification",
    "question-answering",
    "seq2seq",
    "regression",
)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The kind of task and the sizes that the data has."""

    kind: str
    name: str = ""
    """Shown in reports; the kind when empty."""
    vocab_size: int | None = None
    """Ids lie in [0, vocab_size), tokens."""
    num_classes: int | None = None
    """Labels lie in [0, num_classes)."""
    max_length: int | None = None
    """Longest sequence, tokens."""
    image_size: int | None = None
    """Side of a square image, pixels."""
    num_channels: int | None = None
    """Channels of an image or a spectrogram."""
    pad_token_id: int | None = None
    class_weights: tuple[float, ...] | None = None
    """What a target of each class counts for; None: all the same."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"there is no task named {self.kind!r}",
                why=suggest(self.kind, [*KINDS, *ALIASES]),
                next=f"choose one of: {', '.join(KINDS)}",
            )
        for field in ("vocab_size", "num_classes", "max_length", "image_size", "num_channels"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UsageError(f"{field}={value} is too small for a task", why="a size is at least 1")
        self._require_weights()
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    def _require_weights(self) -> None:
        weights = self.class_weights
        if weights is None:
            return
        if self.kind not in ("classification", "token-classification", "vision"):
            raise UsageError(f"class_weights has no effect on the task {self.kind}", why="it has no classes")
        if self.num_classes is not None and len(weights) != self.num_classes:
            raise UsageError(f"{len(weights)} class weights do not fit {self.num_classes} classes")
        if not all(0 <= each < math.inf for each in weights) or not any(weights):
            raise UsageError(
                f"class_weights={weights} cannot be used",
                why="weights are finite, none is negative, and one at least is positive",
            )

    @property
    def is_text(self) -> bool:
        return self.kind in TEXT_KINDS

    @classmethod
    def from_name(cls, name: str) -> TaskSpec:
        """A task by its kind, or by what other tools call it; underscores count as hyphens."""
        plain = name.strip().lower().replace("_", "-")
        presets = {"vision-tiny": cls.vision_tiny, "text-tiny": cls.text_tiny}
        if plain in presets:
            return presets[plain]()
        return cls(kind=ALIASES.get(plain, plain))

    @classmethod
    def language_modeling(
        cls, vocab_size: int | None = None, max_length: int | None = None, pad_token_id: int | None = None
    ) -> TaskSpec:
        """Predict the next token."""
        return cls(kind="causal-lm", vocab_size=vocab_size, max_length=max_length, pad_token_id=pad_token_id)

    @classmethod
    def masked_language_modeling(
        cls, vocab_size: int | None = None, max_length: int | None = None, pad_token_id: int | None = None
    ) -> TaskSpec:
        """Restore the tokens that were hidden."""
        return cls(kind="masked-lm", vocab_size=vocab_size, max_length=max_length, pad_token_id=pad_token_id)

    @classmethod
    def text_classification(
        cls, num_classes: int = 2, vocab_size: int | None = None, max_length: int | None = None
    ) -> TaskSpec:
        """One of `num_classes` labels per text."""
        return cls(
            kind="classification", num_classes=num_classes, vocab_size=vocab_size, max_length=max_length
        )

    @classmethod
    def seq2seq(cls, vocab_size: int | None = None, max_length: int | None = None) -> TaskSpec:
        """One sequence from another."""
        return cls(kind="seq2seq", vocab_size=vocab_size, max_length=max_length)

    @classmethod
    def vision(cls, num_classes: int = 10, image_size: int = 32, num_channels: int = 3) -> TaskSpec:
        """One of `num_classes` labels per image."""
        return cls(kind="vision", num_classes=num_classes, image_size=image_size, num_channels=num_channels)

    @classmethod
    def vision_tiny(cls) -> TaskSpec:
        """Four classes of 32x32 colour images."""
        return cls(kind="vision", name="vision-tiny", num_classes=4, image_size=32, num_channels=3)

    @classmethod
    def text_tiny(cls) -> TaskSpec:
        """Language modelling over sequences of at most 128 tokens."""
        return cls(kind="causal-lm", name="text-tiny", max_length=128)
