"""What every argument of a model's `forward` is for.

A role is read from the name, the annotation and the default; where a lone required argument says nothing
(`forward(self, x)`), the operation that consumes it decides (see `probe.py`). Nothing is called by guess: an
argument that cannot be placed keeps the role "unknown", and binding a batch to it is an error that names it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from torchstone._errors import ModelError

NATURAL = {
    "ids": "input_ids",
    "mask": "attention_mask",
    "positions": "position_ids",
    "token_types": "token_type_ids",
    "pixels": "pixel_values",
    "audio": "input_values",
    "decoder_ids": "decoder_input_ids",
    "decoder_mask": "decoder_attention_mask",
    "embeddings": "inputs_embeds",
    "labels": "labels",
}
"""The name under which a batch carries each role."""

MAIN_ROLES = ("ids", "embeddings", "pixels", "audio")
"""Roles that alone make an input; the first that is required is the primary one."""

INTERMEDIATE = re.compile(r"^[a-z][a-z_]*\d*_\d+_output$")
"""`<kind>_<index>_output`: the result of a node of a visual builder's graph."""

_ROLE_OF_NAME: dict[str, tuple[str, ...]] = {
    "ids": (
        "input_ids", "input_tokens", "token_ids", "tokens", "token_indices", "idx", "ids", "indices",
        "src_ids",
    ),
    "mask": (
        "attention_mask", "attn_mask", "mask", "padding_mask", "pad_mask", "key_padding_mask", "input_mask",
        "src_key_padding_mask", "encoder_attention_mask", "pixel_mask", "src_mask", "mask_pad", "masks",
    ),
    "positions": ("position_ids", "positions", "position", "pos", "pos_ids", "input_pos", "position_indices"),
    "token_types": ("token_type_ids", "segment_ids", "segments", "token_types", "type_ids", "segment_label"),
    "pixels": (
        "pixel_values", "image", "images", "img", "imgs", "pixels", "pixel_values_videos", "video", "videos",
    ),
    "audio": (
        "input_values", "input_features", "audio", "audio_values", "waveform", "waveforms", "speech", "wav",
        "mel", "mels", "spectrogram", "mel_spectrogram",
    ),
    "decoder_ids": (
        "decoder_input_ids", "decoder_ids", "tgt_ids", "decoder_tokens", "tgt_tokens", "decoder_input",
    ),
    "decoder_mask": (
        "decoder_attention_mask", "decoder_mask", "tgt_key_padding_mask", "decoder_padding_mask",
    ),
    "embeddings": (
        "inputs_embeds", "input_embeds", "inputs_embeddings", "embeddings", "embeds", "hidden_states",
        "hidden_state", "decoder_inputs_embeds",
    ),
    "labels": (
        "labels", "label", "targets", "target_ids", "next_sentence_label", "start_positions", "end_positions",
        "class_labels", "mask_labels", "sentence_order_label", "future_values", "target_values",
    ),
    "cache": (
        "past_key_values", "past_key_value", "past", "use_cache", "cache", "cache_params", "cache_position",
        "layer_past", "kv_cache", "kv_caches", "mems", "use_mems", "encoder_outputs", "past_buckets_states",
        "inference_params",
    ),
    "grid": ("grid_thw", "image_grid_thw"),
    "flag": (
        "output_attentions", "output_hidden_states", "return_dict", "return_loss", "logits_to_keep",
        "is_causal",
    ),
}  # fmt: skip
_ROLES = {name: role for role, names in _ROLE_OF_NAME.items() for name in names}
_BUILDER_INPUT = re.compile(r"^input_\d+(_(tokens|ids|input_ids|token_ids))?$")


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of `forward`."""

    name: str
    role: str
    required: bool
    kind: str
    """"positional-only", "positional" (or keyword), "keyword-only", "var-positional" or "var-keyword"."""
    default: Any = None
    annotation: str = ""
    why: str = ""
    """What the role was read from."""
    natural_name: str = ""
    """Set where the role alone does not say the natural name."""

    @property
    def natural(self) -> str:
        """The name under which a batch carries this argument."""
        if self.natural_name:
            return self.natural_name
        further_ids = self.role == "ids" and self.name.endswith("_input_ids")
        if self.name in _KEEPS_ITS_NAME or further_ids or self.role not in NATURAL:
            return self.name
        return NATURAL[self.role]


# Second arguments of a role that must not be confused with the first.
_KEEPS_ITS_NAME = (
    *("input_features", "pixel_mask", "encoder_attention_mask", "decoder_inputs_embeds", "start_positions"),
    *("end_positions", "next_sentence_label", "class_labels", "mask_labels", "sentence_order_label"),
    *("future_values", "pixel_values_videos"),
)


@dataclass(frozen=True)
class Signature:
    """The arguments of `forward`, in order."""

    arguments: tuple[Argument, ...]
    accepts_any_keyword: bool = False

    def __iter__(self) -> Any:
        return iter(self.arguments)

    def __contains__(self, name: object) -> bool:
        return any(argument.name == name for argument in self.arguments)

    def __getitem__(self, name: str) -> Argument:
        for argument in self.arguments:
            if argument.name == name:
                return argument
        raise KeyError(name)

    def of_role(self, role: str) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if argument.role == role)

    def has(self, role: str) -> bool:
        return any(argument.role == role for argument in self.arguments)

    @property
    def required(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if argument.required)

    @property
    def intermediates(self) -> tuple[Argument, ...]:
        """Required results of graph nodes, which we compute."""
        return tuple(each for each in self.arguments if each.role == "intermediate" and each.required)

    def __str__(self) -> str:
        return "forward(" + ", ".join(_as_written(argument) for argument in self.arguments) + ")"


def read_signature(module: nn.Module) -> Signature:
    """Read `forward` of `module` (or of the model that it wraps) and place every argument."""
    inner = unwrap(module)
    arguments: list[Argument] = []
    for parameter in _parameters(inner):
        arguments.append(_read_argument(parameter))
    signature = Signature(
        _one_main_input(tuple(arguments), inner), any(each.kind == "var-keyword" for each in arguments)
    )
    if any(each.role == "unknown" and each.required for each in signature.arguments):
        from torchstone.adapt.placing import place_by_probing

        signature = place_by_probing(inner, signature)
    return signature


def unwrap(module: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel and other wrappers that only hand over their arguments."""
    seen: set[int] = set()
    while id(module) not in seen:
        seen.add(id(module))
        inner = _inner(module)
        if inner is None:
            return module
        module = inner
    return module


def _inner(module: nn.Module) -> nn.Module | None:
    compiled = module.__dict__.get("_modules", {}).get("_orig_mod")
    if isinstance(compiled, nn.Module):
        return compiled
    children = list(module.children())
    if len(children) == 1 and not list(module.parameters(recurse=False)):
        kinds = {each.kind for each in _own_parameters(module)}
        # Only *args and **kwargs, and one child: everything is handed over.
        if kinds and kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            return children[0]
    return None


def _own_parameters(module: nn.Module) -> list[inspect.Parameter]:
    forward: Callable[..., Any] = module.forward
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    if type(module).forward is nn.Module.forward and "forward" not in vars(module):
        raise ModelError(
            f"{type(module).__name__} has no forward",
            why="a module without forward cannot be called",
            next="define forward, or give the module that has one",
        )
    if isinstance(module, nn.Sequential):
        for child in module:
            return _parameters(child)[:1]
    return _own_parameters(module)


def _read_argument(parameter: inspect.Parameter) -> Argument:
    kind = {
        inspect.Parameter.POSITIONAL_ONLY: "positional-only",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.KEYWORD_ONLY: "keyword-only",
        inspect.Parameter.VAR_POSITIONAL: "var-positional",
        inspect.Parameter.VAR_KEYWORD: "var-keyword",
    }[parameter.kind]
    annotation = "" if parameter.annotation is inspect.Parameter.empty else _annotation(parameter.annotation)
    required = parameter.default is inspect.Parameter.empty and not kind.startswith("var-")
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    role, why = _role(parameter.name, kind, annotation, default, required)
    return Argument(
        name=parameter.name,
        role=role,
        required=required,
        kind=kind,
        default=default,
        annotation=annotation,
        why=why,
    )


def _role(name: str, kind: str, annotation: str, default: Any, required: bool) -> tuple[str, str]:
    if kind == "var-positional":
        return "var_args", "*args"
    if kind == "var-keyword":
        return "var_keywords", "**kwargs"
    plain = name.lower()
    if plain in _ROLES:
        return _ROLES[plain], "name"
    if _BUILDER_INPUT.match(plain):
        return "ids", "name of a graph's input node"
    if INTERMEDIATE.match(plain):
        return "intermediate", "name of a graph node's result"
    if isinstance(default, bool) or re.fullmatch(r"bool( \| None)?|Optional\[bool\]", annotation):
        return "flag", "boolean"
    if plain.startswith(("output_", "return_", "use_")) and not required:
        return "flag", "name"
    if plain.endswith("_input_ids"):
        return "ids", "name"
    if plain.endswith(("_labels", "_label")):
        return "labels", "name"
    if any(word in annotation for word in ("Cache", "DynamicCache")):
        return "cache", "annotation"
    return "unknown", "no rule places this name"


def _annotation(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation)


def _one_main_input(arguments: tuple[Argument, ...], module: nn.Module) -> tuple[Argument, ...]:
    """A module may say which argument is its main one (`main_input_name`); trust it about an unknown."""
    declared = getattr(module, "main_input_name", None)
    if not isinstance(declared, str):
        return arguments
    return tuple(
        replace(each, role="ids", why="main_input_name")
        if each.name == declared and each.role == "unknown" and each.name.endswith("_ids")
        else each
        for each in arguments
    )


def _as_written(argument: Argument) -> str:
    stars = {"var-positional": "*", "var-keyword": "**"}.get(argument.kind, "")
    text = stars + argument.name
    return text if argument.required or stars else f"{text}={argument.default!r}"
