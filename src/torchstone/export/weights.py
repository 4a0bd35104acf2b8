"""Weights and configuration in the layout of `save_pretrained`, read back before they count.

A model of transformers is written by transformers and can be loaded by it from the bundle. Any other model's
weights are written once each; other names of a tied one are told in the header and in the manifest.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone import _files
from torchstone._errors import ModelError
from torchstone.export.formats import FormatFailed

if TYPE_CHECKING:
    from torchstone.export.source import Source

FILE = "model.safetensors"


def write(source: Source, folder: Path) -> dict[str, Any]:
    """`config.json`, `model.safetensors`, `generation_config.json`; the manifest's entry."""
    if source.is_transformers:
        return _by_transformers(source, folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in source.module.state_dict().items()}
    kept, tied = _untied(source.module.state_dict(), tensors)
    from safetensors.torch import save_file

    save_file(kept, folder / FILE, metadata={"format": "pt", "tied": json.dumps(tied)})
    _files.write_json(folder / "config.json", _config(source))
    if (generation := _generation(source)) is not None:
        _files.write_json(folder / "generation_config.json", generation)
    _require_same(source, folder / FILE, tied)
    state = source.module.state_dict()
    buffers = [name for name, _ in source.module.named_buffers() if name not in state]
    return {"file": FILE, "tied": tied, "library": None, "buffers": buffers}


def _by_transformers(source: Source, folder: Path) -> dict[str, Any]:
    from torchstone._optional import require
    from torchstone.adapt.huggingface import quiet

    transformers = require("transformers", "hf")
    module = source.adapter.base
    if bad := [
        name
        for name, each in module.state_dict().items()
        if each.is_floating_point() and each.dtype != torch.float32
    ]:
        source.notes.append(f"{len(bad)} weights were not float32, and are written so")
    try:
        with quiet(transformers):
            module.save_pretrained(str(folder))  # type: ignore[operator]
    except (RuntimeError, ValueError, OSError, TypeError) as problem:
        raise FormatFailed(
            "transformers cannot save this model", why=str(problem).splitlines()[0]
        ) from problem
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    return {"file": files[0], "tied": {}, "library": "transformers", "buffers": []}


def _untied(state: dict[str, Tensor], tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each memory once; copies share none any more, so the original state says what is tied."""
    from torchstone.tracking.checkpoint import untie

    _, tied = untie(state)
    return {name: value for name, value in tensors.items() if name not in tied}, tied


def _require_same(source: Source, file: Path, tied: dict[str, str]) -> None:
    """A twin of the model, filled with NaN and then from the file, holds what the model holds."""
    from safetensors.torch import load_file

    found = load_file(file)
    found |= {name: found[kept] for name, kept in tied.items()}
    twin = copy.deepcopy(source.module)
    for each in (*twin.parameters(), *twin.buffers()):
        if each.is_floating_point():
            each.data.fill_(float("nan"))
    twin.load_state_dict(found)
    for name, value in source.module.state_dict().items():
        if not torch.equal(twin.state_dict()[name].nan_to_num(), value.nan_to_num()):
            raise FormatFailed(f"{name} is not the same when it is read back", where=FILE)


def _config(source: Source) -> dict[str, Any]:
    """What a reader needs to build the model again, plain values only."""
    model = source.model
    plain = json.loads(json.dumps(model.config, default=str))
    about = {
        "architectures": [model.class_name],
        "task": model.task.kind,
        "torchstone": {"target": model.target, "fingerprint": model.fingerprint},
    }
    return plain | about


def _generation(source: Source) -> dict[str, Any] | None:
    """For models that make text; None for the others."""
    if source.model.task.kind not in ("causal-lm", "seq2seq"):
        return None
    facts, words = source.model.facts, source.tokenizer
    values = {
        "max_length": facts.max_seq_len,
        "eos_token_id": source.eos_token_id,
        "pad_token_id": facts.pad_token_id if words is None else words.pad_token_id,
        "decoder_start_token_id": facts.decoder_start_token_id,
    }
    return {name: value for name, value in values.items() if value is not None}


def require_numbers(source: Source) -> None:
    """Every weight is a number; ModelError names the first that is not."""
    for name, value in source.module.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise ModelError(
                f"the weights hold NaN or infinities: {name}",
                why=f"{bad} of {value.numel()} numbers",
                next="export an earlier checkpoint of the run: torchstone verify RUN lists them",
            )
