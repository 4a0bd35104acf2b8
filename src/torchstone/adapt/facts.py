"""Sizes of a model that its user need not tell: vocabulary, position limit, padding id, width, image size.

The configuration says first; then the model is run once and the tables that its inputs index are measured.
Where the two disagree the table wins and a note tells so. What nothing shows stays None: no size is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.adapt.config_view import ConfigView, config_of
from torchstone.adapt.recipe import Recipe
from torchstone.adapt.signature import Signature, unwrap

VOCAB_WORDS = ("vocab_size", "n_vocab", "vocabulary_size", "num_tokens", "n_tokens", "vocab", "ntoken")
LENGTH_WORDS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_seq_length", "max_sequence_length",
    "seq_length", "block_size", "context_length", "context_size", "n_ctx", "max_target_positions", "seq_len",
    "max_len", "max_length",
)  # fmt: skip
WIDTH_WORDS = (
    "d_model",
    "hidden_size",
    "n_embd",
    "dim",
    "embed_dim",
    "embedding_dim",
    "hidden_dim",
    "model_dim",
)
DEPTH_WORDS = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "depth",
    "encoder_layers",
    "num_blocks",
)
VISION_PARTS = ("vision_config", "thinker_config", "image_config", "backbone_config")
COUNT_WORDS = (
    "image_seq_length", "mm_tokens_per_image", "image_seq_len", "num_image_tokens", "image_num_tokens",
    "vision_soft_tokens_per_image", "num_query_tokens", "num_queries", "image_token_length",
)  # fmt: skip
CLASS_WORDS = ("num_labels", "num_classes", "n_classes")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known about one model, and where it was read."""

    vocab_size: int | None = None
    vocab_size_source: str | None = None
    decoder_vocab_size: int | None = None
    """Where the decoder has a table of its own size; None: the same."""
    max_seq_len: int | None = None
    """None: no limit is known."""
    max_seq_len_source: str | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    d_model: int | None = None
    num_layers: int | None = None
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    """Height and width in pixels."""
    num_channels: int | None = None
    num_frames: int | None = None
    num_mel_bins: int | None = None
    audio_frames: int | None = None
    """Frames of `input_features` that the model wants, where it wants a fixed number."""
    output_size: int | None = None
    """Last dimension of the main tensor, as seen in one run."""
    input_layout: str = "BT"
    """"TB" where the model wants time first."""
    output_layout: str = "BTV"
    """"TBV" where the model gives time first for batch-first inputs."""
    main_input: str | None = None
    """The argument that the model itself declares as its main one."""
    recipe: Recipe = field(default_factory=Recipe)
    """How example inputs look, where the signature leaves it open."""
    image_token_id: int | None = None
    image_token_counts: tuple[int, ...] = ()
    """Placeholders per image, the likeliest first."""
    length_candidates: tuple[int, ...] = field(default=(), repr=False)
    """Lengths that a model of one length might want: the dimensions of its own tables."""
    reserved_ids: tuple[int, ...] = ()
    """Ids that stand for something else than text (image, audio and video placeholders)."""
    config: ConfigView = field(default_factory=ConfigView, repr=False, compare=False)
    notes: tuple[str, ...] = ()

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """Time, height and width of one image, in patches, for models that take flattened patches."""
        side = 2 * self._vision("spatial_merge_size", 2)
        return 1, side, side

    @property
    def patches_per_image(self) -> int:
        return self.patch_grid[1] * self.patch_grid[2]

    @property
    def patch_tokens(self) -> int:
        """Placeholder ids that one image of patches stands for."""
        return self.patches_per_image // self._vision("spatial_merge_size", 2) ** 2

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened patch."""
        patch, frames = self._vision("patch_size", 14), self._vision("temporal_patch_size", 2)
        return (self.num_channels or 3) * frames * patch * patch

    def _vision(self, name: str, default: int) -> int:
        return self.config.number(name, parts=VISION_PARTS) or default

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """Last dimensions that show logits."""
        sizes = (self.vocab_size, self.decoder_vocab_size, self.num_classes)
        return tuple(each for each in sizes if each is not None)


def read_facts(module: nn.Module, config: Any = None, signature: Signature | None = None) -> ModelFacts:
    """Read the configuration, then measure the model; see the module docstring."""
    from torchstone.adapt.binding import Binding
    from torchstone.adapt.measure import measure
    from torchstone.adapt.signature import read_signature

    signature = signature or read_signature(module)
    facts = facts_of_config(module, config)
    return measure(Binding(module, signature), facts)[0]


def facts_of_config(module: nn.Module, config: Any = None) -> ModelFacts:
    """What the configuration says; nothing is run."""
    inner = unwrap(module)
    view = config_of(inner, config)
    vocab = view.number(*VOCAB_WORDS)
    length = view.number(*LENGTH_WORDS)
    return ModelFacts(
        vocab_size=vocab,
        vocab_size_source=None if vocab is None else "config",
        max_seq_len=length if length is not None and length > 0 else None,
        max_seq_len_source=None if length is None or length <= 0 else "config",
        pad_token_id=_id(view, "pad_token_id"),
        eos_token_id=_id(view, "eos_token_id"),
        decoder_start_token_id=_id(view, "decoder_start_token_id"),
        d_model=view.number(*WIDTH_WORDS),
        num_layers=view.number(*DEPTH_WORDS),
        num_classes=view.number(*CLASS_WORDS),
        image_size=_image_size(view),
        num_channels=_channels(inner, view),
        num_frames=view.number("num_frames", "frames_per_clip", "frames"),
        num_mel_bins=view.number(
            "num_mel_bins",
            "feature_size",
            "n_mels",
            "input_feat_per_channel",
            "feature_projection_input_dim",
            "input_dim",
        ),
        audio_frames=_audio_frames(view),
        main_input=getattr(inner, "main_input_name", None),
        image_token_id=_id_of(view, "image_token_id", "image_token_index", "image_token"),
        image_token_counts=_image_token_counts(view),
        length_candidates=_length_candidates(inner),
        reserved_ids=_reserved(view),
        config=view,
    )


def _audio_frames(view: ConfigView) -> int | None:
    """Frames of a spectrogram, where the model takes a fixed number of them."""
    sources = view.number("max_source_positions")
    if sources is not None:
        # Two frames make one source position.
        return 2 * sources
    return view.number("max_length", "spec_size", "num_frames_per_clip") if view.get("num_mel_bins") else None


def _image_token_counts(view: ConfigView) -> tuple[int, ...]:
    said = [value for name in COUNT_WORDS if (value := view.number(name)) is not None and value > 0]
    size, patch = _image_size(view), view.number("patch_size", parts=VISION_PARTS)
    if size is None or not patch:
        return (*said, 1)
    side = size[0] // patch
    merged = [side // step for step in (1, view.number("scale_factor") or 2, 2, 4) if side // step]
    computed = [each * each for each in merged]
    return (*said, *computed, side * side + 1, 1)


def _length_candidates(module: nn.Module) -> tuple[int, ...]:
    sizes = {
        int(size)
        for each in (*module.parameters(), *module.buffers())
        if 2 <= each.dim() <= 4
        for size in each.shape
    }
    return tuple(sorted(size for size in sizes if 2 <= size <= 2048)[:12])


def _id_of(view: ConfigView, *names: str) -> int | None:
    return next((found for name in names if (found := _id(view, name)) is not None), None)


def _id(view: ConfigView, name: str) -> int | None:
    value = view.get(name)
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value if isinstance(value, int) and value >= 0 else None


def _image_size(view: ConfigView) -> tuple[int, int] | None:
    value = view.get(
        "image_size",
        "img_size",
        "input_size",
        "image_resolution",
        parts=("vision_config", "image_config", "backbone_config"),
    )
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) >= 2 and all(isinstance(each, int) for each in value):
        return int(value[-2]), int(value[-1])
    if isinstance(value, dict) and {"height", "width"} <= set(value):
        return int(value["height"]), int(value["width"])
    return None


def _channels(module: nn.Module, view: ConfigView) -> int | None:
    said = view.number(
        "num_channels",
        "in_channels",
        "in_chans",
        "num_image_channels",
        parts=("vision_config", "image_config", "backbone_config"),
    )
    if said is not None:
        return said
    return next(
        (each.in_channels for each in module.modules() if isinstance(each, (nn.Conv2d, nn.Conv3d))), None
    )


def _reserved(view: ConfigView) -> tuple[int, ...]:
    """Every `<something>_token_id` for images, audio and video, wherever it stands."""
    found: set[int] = set()
    for words in (view, *view.parts()):
        raw = words.raw
        pairs = (
            raw.items() if isinstance(raw, dict) else vars(raw).items() if hasattr(raw, "__dict__") else ()
        )
        for name, value in pairs:
            if isinstance(name, str) and isinstance(value, int) and value >= 0 and _is_placeholder(name):
                found.add(value)
    return tuple(sorted(found))


def _is_placeholder(name: str) -> bool:
    ends = name.endswith(("_token_id", "_token_index", "_token"))
    return ends and any(
        word in name for word in ("image", "audio", "video", "vision", "speech", "boi", "eoi", "img")
    )


def with_note(facts: ModelFacts, note: str, **changes: Any) -> ModelFacts:
    return replace(facts, notes=(*facts.notes, note), **changes)


def device_of(module: nn.Module) -> torch.device:
    """Device of the first parameter or buffer."""
    tensor: Tensor | None = next(module.parameters(), None)
    if tensor is None:
        tensor = next(module.buffers(), None)
    return torch.device("cpu") if tensor is None else tensor.device
