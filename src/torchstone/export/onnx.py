"""ONNX by torch's dynamo exporter, from the same graph as `.pt2`; read back by onnx, run by onnxruntime.

Free axes carry the names of the interface. Stack traces and sources that the exporter notes on each node
are left out: they name folders of this machine.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchstone._optional import require
from torchstone.export.formats import FormatFailed
from torchstone.export.obstacle import obstacle

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torchstone.export.program import Interface
    from torchstone.export.source import Source

FILE = "model.onnx"
OPSET = 20
_EXTERNAL_BYTES = 1_500_000_000
"""A protocol buffer ends at 2 GiB; above this the weights lie in a file of their own."""


def write(source: Source, folder: Path) -> dict[str, Any]:
    """`model.onnx`; the manifest's entry."""
    convert(source, folder / FILE)
    return {"file": FILE, "opset": OPSET}


def convert(source: Source, path: Path) -> None:
    """Write the source's program as ONNX; FormatFailed names the operator that has no counterpart."""
    if source.onnx is None:
        source.onnx = converted(source.program, source.interface)
    save(source.onnx, source.program, path)


def save(made: Any, program: ExportedProgram, path: Path) -> None:
    """Write and check what `converted` gave."""
    onnx = require("onnx", "onnx")
    large = sum(each.numel() * each.element_size() for each in program.state_dict.values())
    made.save(str(path), external_data=large > _EXTERNAL_BYTES)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as problem:
        raise FormatFailed(
            "the exporter's file is no valid ONNX", why=str(problem).strip()[:300]
        ) from problem


def converted(program: ExportedProgram, interface: Interface) -> Any:
    """The program in ONNX's operators, tidied; FormatFailed names the operator in the way."""
    try:
        return _converted(program, interface)
    except Exception as problem:  # the exporter raises kinds of its own
        raise FormatFailed(
            "the ONNX exporter cannot convert this model",
            why=obstacle(problem, interface.names),
            next="export the other formats: --formats safetensors,pt2",
        ) from problem


def _converted(program: ExportedProgram, interface: Interface) -> Any:
    require("onnxscript", "onnx")
    with quiet(), _copied(program):
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(interface.names),
            output_names=_output_names(interface),
        )
    assert made is not None
    _tidy(made.model, interface)
    return made


@contextmanager
def _copied(program: ExportedProgram) -> Iterator[None]:
    """A copy before each `view` and `reshape` for a while; the copies leave no trace in ONNX.

    A kernel for attention leaves its rows such that a view of them is allowed. The exporter takes the kernel
    apart, and what its parts leave is laid out otherwise.
    """
    ops, graph, copies = torch.ops.aten, program.graph, []
    for node in [each for each in graph.nodes if each.target in (ops.view.default, ops.reshape.default)]:
        given = node.args[0]
        with graph.inserting_before(node):
            copied = graph.call_function(
                ops.clone.default, (given,), {"memory_format": torch.contiguous_format}
            )
        copied.meta = dict(given.meta)
        node.replace_input_with(given, copied)
        copies.append((node, given, copied))
    try:
        yield
    finally:
        for node, given, copied in copies:
            node.replace_input_with(copied, given)
            graph.erase_node(copied)


def _output_names(interface: Interface) -> list[str]:
    """The cache comes out under the names by which it goes in."""
    return [interface.output.name, *(f"new_{name}" for name in interface.names if name.startswith("past_"))]


def _tidy(model: Any, interface: Interface) -> None:
    """Axes by their names, nodes without the folders of this machine."""
    import onnx_ir

    renamed: dict[str, str] = {}
    for value, known in zip(model.graph.inputs, interface.inputs, strict=True):
        for axis, name in zip(value.shape, known.axes, strict=True):
            if isinstance(axis, onnx_ir.SymbolicDim) and isinstance(name, str):
                renamed[str(axis.value)] = name
    for value in _values(model.graph):
        if value.shape is not None:
            for place, axis in enumerate(value.shape):
                if isinstance(axis, onnx_ir.SymbolicDim) and axis.value is not None:
                    value.shape[place] = onnx_ir.SymbolicDim(_renamed(str(axis.value), renamed))
    for part in (model, model.graph, *model.graph.all_nodes(), *_values(model.graph)):
        part.metadata_props.clear()
    model.producer_name = "torchstone"


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.inputs
    for node in graph.all_nodes():
        yield from node.outputs


def _renamed(axis: str, names: dict[str, str]) -> str:
    return re.sub(r"\b[A-Za-z_]\w*\b", lambda match: names.get(match[0], match[0]), axis)


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """The exporter's remarks about packages that are not installed and about its own future."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", *names)]
    levels = [each.level for each in logs]
    for each in logs:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(logs, levels, strict=True):
            each.setLevel(level)
