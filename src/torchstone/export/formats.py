"""The formats that a bundle may hold, as a registry: what each is for, what it needs, who writes it.

    for each in chosen("safetensors,pt2,onnx,int8"):
        files = each.write(source, folder)          # or FormatFailed, which says what stands in the way

A writer gets an empty place and writes there; `bundle.py` moves what was proven and forgets the rest, so a
half-written file is never seen. Nothing here imports torch: writers are named, and found when called.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import ModelError, UsageError
from torchstone._registry import Registry

if TYPE_CHECKING:
    from torchstone.export.source import Source


class FormatFailed(ModelError):
    """This format cannot be made of this model; `why` names the operator or the input in the way."""


@dataclass(frozen=True)
class Format:
    """One way to write a model down."""

    name: str
    summary: str
    writer: str
    """`module:function`; called with the source and a folder, it returns what the manifest should say."""
    extra: str | None = None
    """The extra of torchstone without which it cannot be written."""
    packages: tuple[str, ...] = ()
    """What that extra must bring, by import name."""
    runtime: str | None = None
    """Who runs it: torch, onnx; None: it is not run by itself."""
    precision: str = "float32"
    legacy: str | None = None
    """Why nobody should choose it today."""

    def write(self, source: Source, folder: Path) -> dict[str, Any]:
        module, _, function = self.writer.partition(":")
        written: dict[str, Any] = getattr(importlib.import_module(module), function)(source, folder)
        return written


FORMATS: Registry[Format] = Registry("format")
DEFAULT = ("safetensors", "pt2", "onnx")
_ONNX = ("onnx", "onnxscript", "onnxruntime")

for _each in (
    Format(
        "safetensors",
        "weights and configuration in the layout of save_pretrained",
        "torchstone.export.weights:write",
        runtime="torch",
    ),
    Format(
        "pt2",
        "a torch.export program, batch and sequence free",
        "torchstone.export.pt2:write",
        runtime="torch",
    ),
    Format(
        "pt2-int8",
        "the same with linear layers in dynamic int8",
        "torchstone.export.int8:write_pt2",
        runtime="torch",
        precision="int8",
    ),
    Format(
        "onnx",
        "ONNX by torch's dynamo exporter, batch and sequence free",
        "torchstone.export.onnx:write",
        extra="onnx",
        packages=_ONNX,
        runtime="onnx",
    ),
    Format(
        "onnx-int8",
        "the same with linear layers in dynamic int8, by onnxruntime",
        "torchstone.export.int8:write_onnx",
        extra="onnx",
        packages=_ONNX,
        runtime="onnx",
        precision="int8",
    ),
    Format(
        "pt2-cache",
        "two programs that decode with the model's cache: the prompt, the next token",
        "torchstone.export.cached:write_pt2",
        runtime="torch",
    ),
    Format(
        "onnx-cache",
        "the same in ONNX",
        "torchstone.export.cached:write_onnx",
        extra="onnx",
        packages=_ONNX,
        runtime="onnx",
    ),
    Format(
        "torchscript",
        "a traced TorchScript program",
        "torchstone.export.legacy:write_torchscript",
        runtime="torch",
        legacy="torch deprecates TorchScript; take pt2",
    ),
    Format(
        "torchserve",
        "handler and configuration for TorchServe, which runs model.pt2",
        "torchstone.export.legacy:write_torchserve",
        legacy="TorchServe is archived and gets no security fixes",
    ),
):
    FORMATS.add(_each)


def chosen(names: str | Iterable[str]) -> tuple[Format, ...]:
    """The formats of a list with commas, each once, in the order of the registry.

    `int8` stands for the int8 twins of pt2 and onnx: of those that are named, of both if neither is.
    """
    wanted = names.split(",") if isinstance(names, str) else list(names)
    wanted = [each.strip() for each in wanted if each.strip()]
    if "int8" in wanted:
        plain = [each for each in ("pt2", "onnx") if each in wanted] or ["pt2", "onnx"]
        wanted = [each for each in wanted if each != "int8"] + [f"{each}-int8" for each in plain]
    if not wanted:
        raise UsageError("no format is named", next=f"--formats {','.join(DEFAULT)}")
    found = {FORMATS.get(each).name for each in wanted}
    return tuple(each for each in FORMATS if each.name in found)
