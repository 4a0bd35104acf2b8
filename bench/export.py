"""What exports cost and give: onnxruntime and AOT-compiled .pt2 over eager, the export itself, the server.

    python bench/export.py                               # a GPT of ten million parameters
    python bench/export.py --target zoo:gpt-nano --skip aot

Writes bench/results/export.json. Interleaved, CPU seconds, medians of ratios, for wall time on a shared
machine tells of its neighbours. `export` is the whole bundle with its proof over bare torch.export.export,
torch.export.save and torch.onnx.export. `serve` is a request over the call that it makes, in wall time.
AOTInductor compiles with g++; where that is missing it is said.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="zoo:gpt-tiny")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--skip", action="append", default=[], choices=["aot", "export", "run", "serve"])
    parser.add_argument("--export-rounds", type=int, default=2, help="after one that warms up")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "target": wanted.target,
        "length": wanted.length,
        "torch": str(torch.__version__),
    }
    with tempfile.TemporaryDirectory() as place:
        parts = {"export": export_time, "run": run_time, "serve": serve_time}
        for name, measure in parts.items():
            found[name] = None if name in wanted.skip else measure(wanted, Path(place))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def export_time(wanted: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The first round warms up, where there are several."""
    from torchstone.export.bundle import export
    from torchstone.export.formats import chosen
    from torchstone.export.source import open_source

    rounds, target = [], wanted.target
    for number in range(1 + wanted.export_rounds):
        source = open_source(target)
        _ = source.interface  # loading and probing the model is not exporting it
        ours = cpu_seconds(lambda: export(source, place / f"bundle{number}", chosen("pt2,onnx")))  # noqa: B023
        bare = cpu_seconds(lambda: bare_export(open_source(target), place / f"bare{number}"))  # noqa: B023
        rounds.append((ours, bare))
    ratios = [ours / bare for ours, bare in rounds[1:]]
    return {"bundle_cpu_s": rounds[-1][0], "bare_cpu_s": rounds[-1][1], "ratio": statistics.median(ratios)}


def bare_export(source: Any, place: Path) -> None:
    """What a user would type: two traces, for each call makes its own."""
    from torchstone.export.onnx import quiet
    from torchstone.export.program import _free_axes, traced_example

    place.mkdir()
    module, inputs = source.traceable.eval(), traced_example(source.adapter, source.interface)
    axes = (_free_axes(source.interface),)
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=axes), place / "model.pt2")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, place / "model.onnx", dynamo=True, dynamic_shapes=axes, verbose=False
        )


def run_time(wanted: argparse.Namespace, place: Path) -> dict[str, Any]:
    import onnxruntime

    from torchstone.export import onnx
    from torchstone.export.program import example
    from torchstone.export.source import open_source

    source = open_source(wanted.target)
    onnx.write(source, place)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(place / onnx.FILE), options)
    compiled, why = (None, "--skip aot") if "aot" in wanted.skip else aot(source, place)
    told: dict[str, Any] = {"aot_why": why}
    for rows in (1, 8):
        batch = example(source.adapter, rows, wanted.length)
        tensors = tuple(batch[name] for name in source.interface.names)
        arrays = {name: batch[name].numpy() for name in source.interface.names}
        rivals: dict[str, Callable[[], Any]] = {
            "onnxruntime": lambda arrays=arrays: session.run(None, arrays)
        }  # type: ignore[misc]
        if compiled is not None:
            rivals["aot"] = lambda tensors=tensors: compiled(*tensors)  # type: ignore[misc]
        told[f"batch_{rows}"] = ratios(
            lambda tensors=tensors: source.traceable(*tensors), rivals, wanted.rounds
        )  # type: ignore[misc]
    return told


def serve_time(wanted: argparse.Namespace, place: Path) -> dict[str, Any]:
    """What a request for one token costs over the same call without HTTP, batch 1, no window.

    In wall time, and in CPU time of server and client together, which no neighbour touches.
    """
    import asyncio
    import http.client
    import threading

    from torchstone.export.bundle import export
    from torchstone.export.formats import chosen
    from torchstone.export.source import open_source
    from torchstone.export.standalone.inference import Predictor, Sampling
    from torchstone.web.serving.config import ServeConfig
    from torchstone.web.serving.server import make_server

    predictor = Predictor(export(open_source(wanted.target), place / "served", chosen("onnx")).path, "onnx")
    ids, greedy = list(range(1, 33)), Sampling(1, temperature=0)
    body = json.dumps({"prompt": ids, "max_tokens": 1, "temperature": 0})
    started, addresses = threading.Event(), []

    def announce(address: str) -> None:
        addresses.append(address)
        started.set()

    server, listening = make_server(predictor, ServeConfig(port=0, batch_window_ms=0), None, announce)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    started.wait()
    connection = http.client.HTTPConnection(addresses[0].removeprefix("http://"))

    def request() -> None:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()

    def direct() -> None:
        predictor.generate([ids], greedy)

    pairs = [(wall_seconds(direct), wall_seconds(request)) for _ in range(20 * wanted.rounds)]
    cpu = [cpu_seconds(request) - cpu_seconds(direct) for _ in range(20 * wanted.rounds)]
    connection.close()
    server.should_exit = True
    thread.join()
    over = sorted(1000 * (served - direct) for direct, served in pairs[10:])
    return {
        "direct_ms": 1000 * statistics.median(direct for direct, _ in pairs[10:]),
        "overhead_ms": statistics.median(over),
        "overhead_best_tenth_ms": over[len(over) // 10],
        "overhead_cpu_ms": 1000 * statistics.median(cpu),
        "pairs": len(over),
    }


def aot(source: Any, place: Path) -> tuple[Any, str | None]:
    if shutil.which("g++") is None:
        return None, "there is no g++"
    path = torch._inductor.aoti_compile_and_package(source.program, package_path=str(place / "aot.pt2"))
    return torch._inductor.aoti_load_package(path), None


def ratios(eager: Callable[[], Any], rivals: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Seconds of a rival over those of eager, the median; below 1 the rival is faster."""
    found: dict[str, list[float]] = {name: [] for name in rivals}
    base = []
    with torch.no_grad():
        for number in range(rounds + 2):
            first = cpu_seconds(eager)
            for name, rival in rivals.items():
                seconds = cpu_seconds(rival)
                if number >= 2:
                    found[name].append(seconds / first)
            base.append(first)
    return {"eager_cpu_s": statistics.median(base[2:])} | {
        name: statistics.median(each) for name, each in found.items()
    }


def wall_seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def cpu_seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()
