"""Bundles that must not pass, one function each; hashes and seal agree again where a forger mends them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from torchstone.export import bundle as room

Break = Callable[[Path], None]
FILES: dict[str, tuple[Break, str]] = {}
"""What the hashes find: how it is broken, and what is said."""
FORGED: dict[str, tuple[Break, str]] = {}
"""What only running finds, for the hashes are right."""


def manifest_of(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "bundle.json").read_text()))


def rewritten(bundle: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> None:
    manifest = manifest_of(bundle)
    change(manifest)
    if sealed:
        from torchstone.export.standalone.verify import seal_of

        manifest["manifest_sha256"] = seal_of(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def mended(bundle: Path) -> None:
    room.seal(bundle, manifest_of(bundle))


def golden(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    arrays = dict(np.load(bundle / "golden.npz"))
    change(arrays)
    np.savez(bundle / "golden.npz", **arrays)
    mended(bundle)


def onnx_model(bundle: Path, change: Callable[[Any], object]) -> None:
    import onnx

    model = onnx.load(bundle / "model.onnx")
    change(model)
    onnx.save(model, bundle / "model.onnx")
    mended(bundle)


def tokenizer(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    words = json.loads((bundle / "tokenizer.json").read_text())
    change(words)
    (bundle / "tokenizer.json").write_text(json.dumps(words))
    mended(bundle)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- found by the hashes ------------------------------------------------------------------------

FILES["a truncated file"] = (
    lambda b: os.truncate(b / "model.onnx", (b / "model.onnx").stat().st_size // 2),
    "model.onnx has",
)
FILES["an empty file"] = (lambda b: os.truncate(b / "golden.npz", 0), "golden.npz has 0 bytes")
FILES["a flipped bit"] = (lambda b: flip(b / "model.pt2"), "model.pt2 has other content")
FILES["a missing file"] = (lambda b: (b / "health.json").unlink(), "health.json is missing")
FILES["an added file"] = (lambda b: (b / "numpy.py").write_text(""), "numpy.py was added")
FILES["weights of yesterday"] = (
    lambda b: (b / "model.safetensors").write_bytes(b"\0" * (b / "model.safetensors").stat().st_size),
    "model.safetensors has other content",
)
FILES["a stale config"] = (
    lambda b: (b / "config.json").write_text((b / "config.json").read_text().replace("40", "80")),
    "config.json has other content",
)
FILES["no manifest"] = (lambda b: (b / "bundle.json").unlink(), "bundle.json is missing")
FILES["a manifest that is no JSON"] = (lambda b: (b / "bundle.json").write_text("{"), "cannot be read")
FILES["a manifest of another kind"] = (
    lambda b: rewritten(b, lambda m: m.update(schema="torchstone.bundle/9")),
    "has schema",
)
FILES["an edited manifest"] = (
    lambda b: rewritten(b, lambda m: m["model"].update(task="vision"), sealed=False),
    "has other content",
)
FILES["a file elsewhere"] = (
    lambda b: rewritten(b, lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": "0"}})),
    "lies elsewhere",
)
FILES["a format without a hash"] = (
    lambda b: (rewritten(b, lambda m: m["files"].pop("model.onnx")), (b / "model.onnx").rename(b / ".x"))[0],
    "does not vouch for model.onnx",
)
FILES["wider tolerances"] = (
    lambda b: rewritten(b, lambda m: m["tolerances"]["float32"].update(absolute=1.0)),
    "allows more",
)

# --- found by running ---------------------------------------------------------------------------


def _fixed_batch(model: Any) -> None:
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = 2


def _largest_times(factor: float) -> Callable[[Any], None]:
    """The token embedding by another number; equal norms are one initializer, and too small to tell."""

    def change(model: Any) -> None:
        import onnx

        tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
        values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    return change


FORGED["a baked-in batch size"] = (lambda b: onnx_model(b, _fixed_batch), "1 row")
FORGED["an opset that nobody knows"] = (
    lambda b: onnx_model(b, lambda m: setattr(m.opset_import[0], "version", 99)),
    "cannot be loaded",
)
FORGED["other weights in the graph"] = (
    lambda b: onnx_model(b, _largest_times(1.01)),
    "times what is allowed",
)
FORGED["NaN in the graph"] = (lambda b: onnx_model(b, _largest_times(np.nan)), "NaN")
FORGED["another output"] = (
    lambda b: onnx_model(b, lambda m: m.graph.output[0].CopyFrom(m.graph.input[0])),
    "",
)
FORGED["a graph that is no graph"] = (
    lambda b: ((b / "model.onnx").write_bytes(b"not ONNX"), mended(b))[0],
    "cannot be loaded",
)
FORGED["other golden outputs"] = (
    lambda b: golden(b, lambda a: a.update({"00/values": a["00/values"] + 0.01})),
    "times what is allowed",
)
FORGED["golden outputs of another shape"] = (
    lambda b: (
        (b / "golden.json").write_text((b / "golden.json").read_text().replace("300", "301")),
        mended(b),
    )[0],
    "shape",
)
FORGED["no golden input"] = (lambda b: golden(b, lambda a: a.pop("00/input_ids")), "holds no 00/input_ids")
FORGED["golden inputs as a pickle"] = (
    lambda b: ((b / "golden.npz").write_bytes(pickle.dumps({})), mended(b))[0],
    "golden.npz cannot be read",
)
FORGED["another tokenizer"] = (
    lambda b: tokenizer(b, lambda w: w["model"]["vocab"].update(a=98, b=97)),
    "other ids",
)
FORGED["a tokenizer that cannot be loaded"] = (
    lambda b: tokenizer(b, lambda w: w.pop("model")),
    "tokenizer.json",
)
