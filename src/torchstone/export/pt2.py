"""`.pt2`: the graph of torch.export with its weights, run by torch alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchstone.export.formats import FormatFailed
from torchstone.export.obstacle import obstacle

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torchstone.export.source import Source

FILE = "model.pt2"


def write(source: Source, folder: Path) -> dict[str, Any]:
    """`model.pt2`; the manifest's entry."""
    save(source.program, folder / FILE)
    return {"file": FILE}


def save(program: ExportedProgram, path: Path) -> None:
    """Save without the traces of the stack that each node keeps: they name folders of this machine."""
    try:
        with _Untraced(program):
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
    except Exception as problem:  # the serialiser refuses in many ways
        raise FormatFailed("the traced program cannot be saved", why=obstacle(problem)) from problem
    path.write_bytes(buffer.getvalue())


class _Untraced:
    """Takes `stack_trace` out of every node of a program, and puts it back."""

    def __init__(self, program: ExportedProgram) -> None:
        self.nodes = list(program.graph.nodes)
        self.kept: list[str | None] = []

    def __enter__(self) -> None:
        self.kept = [node.meta.pop("stack_trace", None) for node in self.nodes]

    def __exit__(self, *_: object) -> None:
        for node, trace in zip(self.nodes, self.kept, strict=True):
            if trace is not None:
                node.meta["stack_trace"] = trace
