"""GPT-2 weights as the transformers library saves them, in a `GPT` of ours.

    built = build_gpt2(Path("gpt2"))         # a folder with config.json and model.safetensors
    built.module, built.config

Sizes, activation and epsilon are those of config.json. Every tensor must find its place and every parameter
its tensor, or the error names them. Their linear layers ("Conv1D") keep weights as (in, out), ours as (out,
in); their head, where it is tied, is not in the file or repeats the embedding. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from torchstone._errors import ModelError, UsageError
from torchstone.nn.gpt import GPT
from torchstone.nn.zoo import ZOO

RECIPE = "gpt2"
"""The recipe whose sizes a folder replaces."""
FIELDS = {
    "vocab_size": ("vocab_size", 50_257),
    "n_positions": ("max_seq_len", 1024),
    "n_embd": ("d_model", 768),
    "n_layer": ("num_layers", 12),
    "n_head": ("num_heads", 12),
    "n_inner": ("d_ff", None),
    "layer_norm_epsilon": ("norm_eps", 1e-5),
    "tie_word_embeddings": ("tie_word_embeddings", True),
}
"""Their word: our field, and what it is where config.json leaves it out (GPT2Config of transformers)."""
ACTIVATIONS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu", "relu2": "relu2"}
UNSUPPORTED = {
    "add_cross_attention": True,
    "scale_attn_by_inverse_layer_idx": True,
    "scale_attn_weights": False,
}
"""Settings that make another model of it."""
SIZES = ("vocab_size", "max_seq_len", "d_model", "num_layers", "num_heads", "d_ff")

PARTS = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.widen": "mlp.c_fc",
    "mlp.out": "mlp.c_proj",
    "final_norm": "ln_f",
    "head": "lm_head",
}
"""Ours: theirs."""
BUFFERS = (".attn.bias", ".attn.masked_bias")
"""Ends of names that older files hold: masks, no weights."""
HEAD = "lm_head.weight"
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class BuiltGPT2:
    module: nn.Module
    config: dict[str, Any]
    """Its description, as the zoo gives it."""
    overrides: dict[str, Any]
    """With them `zoo:gpt2` is the same model, with random weights."""
    notes: list[str]


def build_gpt2(folder: Path, overrides: Mapping[str, Any] | None = None) -> BuiltGPT2:
    """Our GPT with the weights of `folder`.

    `overrides` are those of `zoo:gpt2`. One that changes a size leaves the weights random; a note says so.
    """
    fields, notes = read_gpt2_config(folder)
    recipe, wishes = ZOO.get(RECIPE), fields | dict(overrides or {})
    with torch.device("meta"):
        _, plain = recipe.build(fields)
    module, config = recipe.build(wishes)
    if any(config[name] != plain[name] for name in SIZES):
        notes = ["sizes were overridden, so the weights are random"]
    else:
        assert isinstance(module, GPT)
        fill_gpt2(module, folder)
        notes.insert(0, f"weights of {folder}")
    return BuiltGPT2(module=module, config=config, overrides=wishes, notes=notes)


# --- config.json --------------------------------------------------------------------------------


def read_gpt2_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What config.json says as fields of `GPTConfig`, and notes."""
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(
            f"there is no config.json in {folder}",
            why="" if folder.is_dir() else "it is no folder, and nothing is downloaded",
            next="hf download openai-community/gpt2 --local-dir gpt2, then gpt2:./gpt2",
        )
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ModelError("config.json is no JSON", where=str(path), why=str(problem)) from None
    if not isinstance(said, dict) or said.get("model_type") != "gpt2":
        kind = said.get("model_type") if isinstance(said, dict) else None
        raise ModelError(
            f"{folder} holds no GPT-2: its model_type is {kind!r}",
            where=str(path),
            next=f"hf:{folder} loads any model of the transformers library",
        )
    wrong = [f"{key}={value}" for key, value in UNSUPPORTED.items() if said.get(key) is value]
    activation = said.get("activation_function", "gelu_new")
    wrong += [] if activation in ACTIVATIONS else [f"activation_function={activation}"]
    if wrong:
        raise ModelError(
            f"our GPT has no {', '.join(wrong)}", where=str(path), next=f"hf:{folder} loads the library's own"
        )
    fields = {ours: said.get(theirs, default) for theirs, (ours, default) in FIELDS.items()}
    fields["activation"] = ACTIVATIONS[activation]
    dropout = said.get("resid_pdrop", 0.1)
    return fields, [f"its dropout of {dropout} is off; model.dropout sets it"] if dropout else []


# --- model.safetensors --------------------------------------------------------------------------


@torch.no_grad()
def fill_gpt2(model: GPT, folder: Path) -> None:
    """Copy the tensors of `folder` into `model`; nothing is copied where one does not fit."""
    tensors = dict(_tensors(folder))
    wanted = {_their_name(name): parameter for name, parameter in model.named_parameters()}
    embedding, head = tensors.get("wte.weight"), tensors.get(HEAD)
    if HEAD not in wanted and head is not None:
        del tensors[HEAD]
        if embedding is None or not torch.equal(head, embedding):
            raise ModelError(
                f"{HEAD} of the file is not its wte.weight, and the model has one for both",
                where=str(folder),
                next='"tie_word_embeddings": false in config.json keeps both',
            )
    ours = {_their_name(name): name for name, _ in model.named_parameters()}
    missing = [f"{name} (our {ours[name]})" for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    misshapen = []
    for name in wanted.keys() & tensors.keys():
        given, needed = tuple(tensors[name].shape), _their_shape(name, wanted[name], model)
        if given != needed:
            misshapen.append(f"{name} is {given}, not {needed}")
    told = [
        f"{what}: {', '.join(sorted(names)[:SHOWN])}" + (", ..." if len(names) > SHOWN else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if told:
        raise ModelError(
            f"{len(missing) + len(unexpected) + len(misshapen)} tensors do not fit the model",
            where=str(folder),
            why="; ".join(told),
            next="a mechanism with parameters of its own has no weights in GPT-2; sizes are in config.json",
        )
    for name, parameter in wanted.items():
        value = tensors[name].T if _is_turned(name) else tensors[name]
        parameter[: len(value)].copy_(value)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name without `transformer.`, and value; masks left out."""
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                    if not name.endswith(BUFFERS):
                        yield name.removeprefix("transformer."), opened.get_tensor(name)
        except (SafetensorError, OSError) as problem:
            raise ModelError(f"{path.name} cannot be read", where=str(path), why=str(problem)) from None


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    whole = folder / "model.safetensors"
    if not whole.is_file():
        inside = ", ".join(sorted(each.name for each in folder.iterdir())[:8])
        raise UsageError(
            f"there is no model.safetensors in {folder}",
            why=f"it holds: {inside}",
            next="save_pretrained of the transformers library writes one",
        )
    return [whole]


def _their_name(name: str) -> str:
    """blocks.3.attention.qkv.weight -> h.3.attn.c_attn.weight; what they do not have keeps our name."""
    place = ""
    if name.startswith("blocks."):
        _, number, name = name.split(".", 2)
        place = f"h.{number}."
    module, _, kind = name.rpartition(".")
    return f"{place}{PARTS.get(module, module)}.{kind}"


def _is_turned(name: str) -> bool:
    return name.endswith(".weight") and any(f".{part}." in name for part in ("c_attn", "c_proj", "c_fc"))


def _their_shape(name: str, parameter: Tensor, model: GPT) -> tuple[int, ...]:
    """The shape that the file must have for our parameter; rows beyond the vocabulary are ours alone."""
    if name in ("wte.weight", HEAD):
        return (model.config.vocab_size, parameter.shape[1])
    return tuple(parameter.T.shape if _is_turned(name) else parameter.shape)
