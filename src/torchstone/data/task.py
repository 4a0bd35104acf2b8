"""What a model is asked to do: one small record that drives example inputs, batches and loss.

    TaskSpec.language_modeling(vocab_size=4096, max_length=256)
    TaskSpec.from_name("vision")
    TaskSpec.vision_tiny().input_fields             # ("pixel_values",)

Nothing here computes. A field of None means: the model or the data will tell. What follows from the kind
alone (fields of a batch, what is learned, what is measured) stands in ROLES and is not a matter of choice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Role:
    """What a kind of task takes, learns and is measured by."""

    modality: str
    input_fields: tuple[str, ...]
    target_fields: tuple[str, ...]
    metrics: tuple[str, ...]


_TOKENS = ("input_ids", "attention_mask")
_LM = ("loss", "perplexity", "accuracy")
_CLASSES = ("loss", "accuracy", "macro_f1")
ROLES: dict[str, Role] = {
    "causal-lm": Role("text", _TOKENS, ("labels",), _LM),
    "masked-lm": Role("text", _TOKENS, ("labels",), _LM),
    "encoder": Role("text", _TOKENS, (), ()),
    "classification": Role("text", _TOKENS, ("labels",), _CLASSES),
    "token-classification": Role("text", _TOKENS, ("labels",), _CLASSES),
    "question-answering": Role("text", _TOKENS, ("start_positions", "end_positions"), ("loss", "accuracy")),
    "seq2seq": Role("text", (*_TOKENS, "decoder_input_ids"), ("labels",), _LM),
    "vision": Role("vision", ("pixel_values",), ("labels",), _CLASSES),
    "audio": Role("audio", ("input_values",), (), ()),
    "multimodal": Role("multimodal", (*_TOKENS, "pixel_values"), (), ()),
    "regression": Role("text", _TOKENS, ("labels",), ("loss",)),
}
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
    image_mean: tuple[float, ...] | None = None
    """Taken from the pixels of each channel, which lie between 0 and 1; None: they are left alone."""
    image_std: tuple[float, ...] | None = None
    """What they are divided by then."""
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
        self._require_scale()
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

    def _require_scale(self) -> None:
        mean, std = self.image_mean, self.image_std
        if mean is None and std is None:
            return
        if self.kind != "vision":
            raise UsageError(f"image_mean and image_std have no effect on the task {self.kind}")
        if mean is None or std is None or len(mean) != len(std) or not mean:
            raise UsageError(
                f"image_mean={mean} and image_std={std} do not belong together",
                why="each channel needs one value of both",
            )
        if not all(each > 0 for each in std):
            raise UsageError(f"image_std={std} cannot be divided by", why="each value is above 0")
        if self.num_channels is not None and len(mean) not in (1, self.num_channels):
            raise UsageError(f"{len(mean)} values of image_mean do not fit {self.num_channels} channels")

    @property
    def is_text(self) -> bool:
        return self.kind in TEXT_KINDS

    @property
    def is_vision(self) -> bool:
        return self.modality == "vision"

    @property
    def is_audio(self) -> bool:
        return self.modality == "audio"

    @property
    def modality(self) -> str:
        return ROLES[self.kind].modality

    @property
    def input_fields(self) -> tuple[str, ...]:
        """Natural names of what a batch feeds the model."""
        return ROLES[self.kind].input_fields

    @property
    def target_fields(self) -> tuple[str, ...]:
        """Names of what is to be learned; empty: this kind has no loss here."""
        return ROLES[self.kind].target_fields

    @property
    def metrics(self) -> tuple[str, ...]:
        """What `torchstone eval` measures."""
        return ROLES[self.kind].metrics

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of an image, (T,) of a text; None: nobody said."""
        if self.image_size is not None:
            return (self.num_channels or 3, self.image_size, self.image_size)
        return None if self.max_length is None else (self.max_length,)

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something, as plain values."""
        found = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if self.class_weights is not None:
            found["class_weights"] = list(self.class_weights)
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskSpec:
        """What `to_dict` gave; an unknown field is an error."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise UsageError(
                    f"a task has no field {name!r}",
                    why=suggest(name, known),
                    next=f"its fields are {', '.join(known)}",
                )
        if "kind" not in values:
            raise UsageError(
                "which task?", why="the field kind is missing", next=f"one of: {', '.join(KINDS)}"
            )
        fields = dict(values)
        if fields.get("class_weights") is not None:
            fields["class_weights"] = tuple(fields["class_weights"])
        return cls(**fields)

    @classmethod
    def presets(cls) -> dict[str, TaskSpec]:
        """Small tasks by name, for trying things out."""
        return {
            "lm-tiny": cls(kind="causal-lm", name="lm-tiny", max_length=128, pad_token_id=0),
            "cls-tiny": cls(
                kind="classification", name="cls-tiny", num_classes=2, max_length=128, pad_token_id=0
            ),
            "seq2seq-tiny": cls(kind="seq2seq", name="seq2seq-tiny", max_length=128, pad_token_id=0),
            "vision-tiny": cls.vision_tiny(),
            "text-tiny": cls.text_tiny(),
        }

    @classmethod
    def from_name(cls, name: str) -> TaskSpec:
        """A task by its kind, or by what other tools call it; underscores count as hyphens."""
        plain = name.strip().lower().replace("_", "-")
        presets = cls.presets()
        if plain in presets:
            return presets[plain]
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
    def token_classification(
        cls, num_classes: int = 2, vocab_size: int | None = None, max_length: int | None = None
    ) -> TaskSpec:
        """One of `num_classes` labels per token; -100 does not count."""
        return cls(
            kind="token-classification",
            num_classes=num_classes,
            vocab_size=vocab_size,
            max_length=max_length,
        )

    @classmethod
    def question_answering(cls, vocab_size: int | None = None, max_length: int | None = None) -> TaskSpec:
        """The first and the last token of the answer in a text."""
        return cls(kind="question-answering", vocab_size=vocab_size, max_length=max_length)

    @classmethod
    def regression(cls, vocab_size: int | None = None, max_length: int | None = None) -> TaskSpec:
        """A number per text."""
        return cls(kind="regression", vocab_size=vocab_size, max_length=max_length)

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
