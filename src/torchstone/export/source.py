"""What is exported: the adapted model, its words, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone.export.program import Interface, Traceable, interface_of, trace

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torchstone.adapt.adapter import Adapter
    from torchstone.adapt.load import LoadedModel
    from torchstone.data.tokenizer import Tokenizer

CLASSES = ("classification", "token-classification", "vision")


@dataclass
class Source:
    """A loaded model on its way out. What is costly is made when first asked for, and once."""

    model: LoadedModel
    tokenizer: Tokenizer | None = None
    marks: bool = False
    """Whether texts get the marks of the tokenizer's own template."""
    home: Path | None = None
    """The run folder, where the model was trained here."""
    notes: list[str] = field(default_factory=list)
    onnx: Any = None
    """The ONNX program, once it was made: its int8 twin starts from it."""

    @property
    def adapter(self) -> Adapter:
        return self.model.adapter

    @property
    def module(self) -> Any:
        return self.model.module

    def shrink(self) -> None:
        """Take out heads and channels that pruning made zero; before anything is made of the model."""
        from torchstone.adapt.shrunk import shrunk

        self.model, small = shrunk(self.model)
        before, after = small.parameters
        what = f"{sum(small.removed.values()):,} heads and channels of zeros are left out"
        self.notes.append(
            f"{what}: {after:,} of {before:,} parameters, answers apart by {small.difference:.1g}"
        )
        self.notes += [f"zeros stay in {layer}: {why}" for layer, why in small.kept.items()]

    @cached_property
    def interface(self) -> Interface:
        """Names and axes of what goes in and comes out."""
        return interface_of(self.adapter)

    @cached_property
    def traceable(self) -> Traceable:
        """The model with the interface's tensors as its arguments, in their order."""
        return Traceable(self.adapter, self.interface)

    @cached_property
    def program(self) -> ExportedProgram:
        """One trace for every format that is made of a graph."""
        return trace(self.traceable)

    @property
    def eos_token_id(self) -> int | None:
        words = self.tokenizer
        return (
            self.model.facts.eos_token_id
            if words is None or words.eos_token_id is None
            else words.eos_token_id
        )

    @property
    def is_transformers(self) -> bool:
        """Whether the library itself can build the model from its configuration."""
        kinds = type(self.adapter.base).__mro__
        return kinds[0].__module__.startswith("transformers.models.") and any(
            each.__name__ == "PreTrainedModel" for each in kinds
        )

    @cached_property
    def main_name(self) -> str:
        """Where the main tensor stands in what the model returns."""
        from torchstone.export.program import example

        return self.adapter(**example(self.adapter, 1, 3)).main_name

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, where the configuration tells them."""
        names = self.model.config.get("id2label")
        if not isinstance(names, dict) or self.model.task.kind not in CLASSES:
            return None
        return [str(name) for _, name in sorted(names.items(), key=lambda each: int(each[0]))]

    @property
    def image(self) -> dict[str, Any] | None:
        """How pictures become pixels, for models of images."""
        task = self.model.task
        if not task.is_vision:
            return None
        height, width = self.adapter.facts.recipe.image_size
        channels = self.adapter.facts.num_channels or 3
        scale = {"mean": task.image_mean, "std": task.image_std}
        return {"height": height, "width": width, "channels": channels, **scale}

    def ids_of(self, text: str) -> list[int]:
        assert self.tokenizer is not None
        encode = getattr(self.tokenizer, "encode_marked", None) if self.marks else None
        return list(self.tokenizer.encode(text) if encode is None else encode(text))


def open_source(
    target: str,
    *,
    task: str | None = None,
    tokenizer: str | None = None,
    trust: bool | None = None,
    seed: int = 0,
) -> Source:
    """Load a TARGET with the tokenizer that belongs to it."""
    from torchstone.adapt.load import load
    from torchstone.adapt.target import parse_target
    from torchstone.adapt.tokenizer_of import find_tokenizer, home_of

    found = parse_target(target)
    model = load(target, task=task, trust=trust, seed=seed)
    words = find_tokenizer(target, tokenizer) if model.task.is_text or tokenizer is not None else None
    marks = found.kind == "hf" and hasattr(words, "encode_marked")
    return Source(model, words, marks=marks, home=home_of(found), notes=list(model.notes))
