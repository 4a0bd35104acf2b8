"""Formats of yesterday, on request: TorchScript, which torch deprecates, and a folder for TorchServe.

TorchServe is archived: nothing here can run it, so its files are written and said to be not run.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchstone import _files
from torchstone.export.formats import FormatFailed
from torchstone.export.obstacle import obstacle
from torchstone.export.program import traced_example

if TYPE_CHECKING:
    from torchstone.export.source import Source

FILE = "model.torchscript.pt"
SERVED = "torchserve"
_HANDLER = '''"""TorchServe's handler: bodies of requests in, answers of inference.py out (legacy)."""

import sys
from pathlib import Path


class Handler:
    def initialize(self, context):
        folder = Path(context.system_properties["model_dir"])
        sys.path.insert(0, str(folder))
        from inference import Predictor, Sampling, predict

        self._predict, self._sampling = predict, Sampling()
        self._predictor = Predictor(folder, {format!r})

    def handle(self, requests, context):
        bodies = [each.get("body") or each.get("data") for each in requests]
        texts = [each.decode() if isinstance(each, (bytes, bytearray)) else each for each in bodies]
        return self._predict(self._predictor, [(each, each) for each in texts], len(texts), self._sampling)


_service = Handler()


def handle(data, context):
    if not hasattr(_service, "_predictor"):
        _service.initialize(context)
    return None if data is None else _service.handle(data, context)
'''
_CONFIG = """minWorkers: 1
maxWorkers: 4
batchSize: 8
maxBatchDelay: 100
responseTimeout: 120
deviceType: cpu
"""


def write_torchscript(source: Source, folder: Path) -> dict[str, Any]:
    """`model.torchscript.pt` by tracing; the manifest's entry."""
    inputs = traced_example(source.adapter, source.interface)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # that torch.jit is deprecated is why this is legacy
            trace: Any = torch.jit.trace
            traced = trace(source.traceable.eval(), inputs, check_trace=False)
            traced.save(str(folder / FILE))
    except Exception as problem:  # tracing raises whatever the model's code does
        raise FormatFailed(
            "torch.jit cannot trace this model",
            why=obstacle(problem, source.interface.names),
            next="take pt2",
        ) from problem
    return {"file": FILE}


def write_torchserve(source: Source, folder: Path) -> dict[str, Any]:
    """`torchserve/handler.py` and `torchserve/model-config.yaml`; the manifest's entry."""
    place = folder / SERVED
    _files.write_text(place / "handler.py", _HANDLER.replace("{format!r}", repr("pt2")))
    _files.write_text(place / "model-config.yaml", _CONFIG)
    return {"file": f"{SERVED}/handler.py"}
