"""Dynamic int8 of linear layers: weights as whole numbers with a scale per row, inputs likewise as they come.

    y = (round(x / s) @ round(W / w)) * s * w + b       s: a scale per token, w: a scale per output channel

In torch the layer is written out, so that `torch.export` holds it: what torch.ao offered is deprecated, and
torchao changes transformers by being installed. In ONNX it is what onnxruntime's own quantiser makes.
Everything else (embeddings, norms, attention scores) stays float32.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone._optional import require
from torchstone.export import onnx, pt2
from torchstone.export.formats import FormatFailed
from torchstone.export.obstacle import obstacle
from torchstone.export.program import Traceable, trace

if TYPE_CHECKING:
    from torchstone.export.source import Source

PT2_FILE, ONNX_FILE = "model.int8.pt2", "model.int8.onnx"
LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer whose product is of whole numbers; the output has the type of the input."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / LARGEST
        self.register_buffer("weight", torch.round(weight / scale[:, None]).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LARGEST
        whole = torch.round(rows / scale).to(torch.int8)
        product = torch._int_mm(whole, self.weight.t()).to(x.dtype) * scale * self.scale
        if self.bias is not None:
            product = product + self.bias
        return product.reshape(*x.shape[:-1], self.weight.shape[0])


def quantised(module: nn.Module) -> tuple[nn.Module, int]:
    """A copy whose linear layers are `Int8Linear`, and their number."""
    twin = copy.deepcopy(module)
    # Attention of torch reads this layer's weight and never calls it.
    passed_by = nn.modules.linear.NonDynamicallyQuantizableLinear
    names = [
        name
        for name, each in twin.named_modules()
        if isinstance(each, nn.Linear) and not isinstance(each, passed_by) and name
    ]
    for name in names:
        parent, _, own = name.rpartition(".")
        layer = twin.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        setattr(twin.get_submodule(parent), own, Int8Linear(layer))
    return twin, len(names)


def write_pt2(source: Source, folder: Path) -> dict[str, Any]:
    """`model.int8.pt2`; the manifest's entry."""
    from torchstone.adapt.adapter import adapt

    twin, count = quantised(source.adapter.base)
    if count == 0:
        raise FormatFailed("there is no linear layer to quantise", next="leave int8 out")
    adapter = adapt(twin, config=source.model.config, task=source.model.task)
    pt2.save(trace(Traceable(adapter, source.interface)), folder / PT2_FILE)
    return {"file": PT2_FILE, "quantised": count}


def write_onnx(source: Source, folder: Path) -> dict[str, Any]:
    """`model.int8.onnx`; the manifest's entry."""
    quantization = require("onnxruntime.quantization", "onnx")
    library = require("onnx", "onnx")
    plain = folder / "plain.onnx"
    onnx.convert(source, plain)
    try:
        with onnx.quiet(""):  # the quantiser advises through the root logger
            quantization.quantize_dynamic(
                plain,
                folder / ONNX_FILE,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
            )
    except Exception as problem:  # the quantiser raises whatever its passes do
        raise FormatFailed("onnxruntime cannot quantise this model", why=obstacle(problem)) from problem
    finally:
        for each in folder.glob("plain.onnx*"):
            each.unlink()
    nodes = library.load(folder / ONNX_FILE, load_external_data=False).graph.node
    count = sum(each.op_type in ("MatMulInteger", "DynamicQuantizeMatMul") for each in nodes)
    if count == 0:
        raise FormatFailed("there is no linear layer to quantise", next="leave int8 out")
    return {"file": ONNX_FILE, "opset": onnx.OPSET, "quantised": count}
