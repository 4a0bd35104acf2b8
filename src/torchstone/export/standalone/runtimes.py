"""Open one format of a bundle as a function from named arrays to an array; needs numpy and its runtime."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "bundle.json"
Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]
PACKAGES = {"onnx": ("onnxruntime",), "torch": ("torch",)}
"""What each runtime must be able to import."""


class CannotRun(Exception):
    """This format cannot be run here; the message says what is missing."""


def read_manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return found


def open_format(folder: Path, manifest: Mapping[str, Any], name: str, device: str = "cpu") -> Run:
    """The format `name` of the bundle in `folder`, ready to run."""
    entry = manifest["formats"].get(name)
    if entry is None:
        known = ", ".join(manifest["formats"])
        raise CannotRun(f"the bundle has no format {name}; it has {known}")
    runtime = entry["runtime"]
    missing = [each for each in PACKAGES.get(runtime, ()) if importlib.util.find_spec(each) is None]
    if missing:
        raise CannotRun(f"{missing[0]} is not installed: pip install -r requirements.txt")
    if runtime is None:
        raise CannotRun(f"{name} is not run from here")
    if "decode" in entry:
        return _decoding(open_cached(folder, manifest, name, device))
    if runtime == "onnx":
        return _onnx(folder, entry, device)
    if entry["file"].endswith(".pt2"):
        return _program(_exported(folder / entry["file"]), manifest, device)
    if entry["file"].endswith(".torchscript.pt"):
        return _script(folder / entry["file"], manifest, device)
    return _weights(folder, manifest, entry, device)


SINGLE_STEPS = 4
"""Tokens that the proof decodes one by one behind the prompt."""
Step = Callable[..., list[np.ndarray]]


def open_cached(
    folder: Path, manifest: Mapping[str, Any], name: str, device: str = "cpu"
) -> tuple[Step, Step]:
    """`prefill(ids)` and `decode(id, *past)`; each gives logits, then the cache."""
    entry = manifest["formats"][name]
    names = ["input_ids", *(each["name"] for each in entry["past"])]
    if entry["runtime"] == "onnx":
        first, then = (_session(folder / file, device) for file in (entry["file"], entry["decode"]))
        return (
            lambda ids: list(first.run(None, {"input_ids": ids})),
            lambda *given: list(then.run(None, dict(zip(names, given, strict=True)))),
        )
    return tuple(_arrays(_exported(folder / file), device) for file in (entry["file"], entry["decode"]))  # type: ignore[return-value]


def _arrays(program: Any, device: str) -> Step:
    import torch

    module = _on(program, device).module()

    def run(*given: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in given))
        return [each.cpu().numpy() for each in found]

    return run


def _decoding(steps: tuple[Step, Step]) -> Run:
    """A pass like that of the other formats: the prompt at once, the last tokens one by one."""
    prefill, decode = steps

    def run(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        ids = batch["input_ids"]
        first = max(1, ids.shape[1] - SINGLE_STEPS)
        logits, *past = prefill(ids[:, :first])
        outputs = [logits]
        for place in range(first, ids.shape[1]):
            logits, *past = decode(ids[:, place : place + 1], *past)
            outputs.append(logits)
        return np.concatenate(outputs, axis=1)

    return run


def _session(path: Path, device: str) -> Any:
    import onnxruntime

    wanted = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        wanted.insert(0, "CUDAExecutionProvider")
        if wanted[0] not in onnxruntime.get_available_providers():
            raise CannotRun("this onnxruntime has no CUDA: pip install onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Else its threads burn a core for milliseconds after each pass, in case another comes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=wanted)


def _onnx(folder: Path, entry: Mapping[str, Any], device: str) -> Run:
    session = _session(folder / entry["file"], device)
    names = [each.name for each in session.get_inputs()]

    def run(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(session.run(None, {name: batch[name] for name in names})[0])

    return run


def _exported(path: Path) -> Any:
    import torch

    return torch.export.load(str(path))


def _program(program: Any, manifest: Mapping[str, Any], device: str) -> Run:
    return _positional(_on(program, device).module(), manifest, device)


def _on(program: Any, device: str) -> Any:
    if device == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


def _script(path: Path, manifest: Mapping[str, Any], device: str) -> Run:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load: Any = torch.jit.load
        return _positional(load(str(path), map_location=device), manifest, device)


def _positional(module: Any, manifest: Mapping[str, Any], device: str) -> Run:
    import torch

    names = [each["name"] for each in manifest["inputs"]]

    def run(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            found = module(*(torch.from_numpy(np.asarray(batch[name])).to(device) for name in names))
        return np.asarray(found.float().cpu().numpy())

    return run


def _weights(folder: Path, manifest: Mapping[str, Any], entry: Mapping[str, Any], device: str) -> Run:
    """`model.safetensors` run by its own code: that of transformers, else the graph in `model.pt2`."""
    if entry.get("library") == "transformers":
        return _transformers(folder, manifest, device)
    graph = manifest["formats"].get("pt2")
    if graph is None:
        raise CannotRun("weights alone have no code to run: the bundle holds no model.pt2")
    from safetensors.torch import load_file

    program = _exported(folder / graph["file"])
    weights = load_file(folder / entry["file"])
    weights |= {name: weights[kept] for name, kept in entry.get("tied", {}).items()}
    unfilled = []
    for name, place in program.state_dict.items():
        own = name.removeprefix("model.")
        if own in weights:
            place.data.copy_(weights[own])
        else:
            unfilled.append(own)
    if unfilled and not set(unfilled) <= set(entry.get("buffers", ())):
        raise CannotRun(f"the weights hold no {unfilled[0]}, which the graph in model.pt2 needs")
    return _program(program, manifest, device)


def _transformers(folder: Path, manifest: Mapping[str, Any], device: str) -> Run:
    if importlib.util.find_spec("transformers") is None:
        raise CannotRun("transformers is not installed: pip install -r requirements.txt")
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name = manifest["model"]["class"]
    module = getattr(transformers, name).from_pretrained(
        str(folder), local_files_only=True, dtype=torch.float32
    )
    module = module.eval().to(device)
    own = {each["name"]: each.get("argument", each["name"]) for each in manifest["inputs"]}
    field = manifest["output"]["field"]

    def run(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        given = {own[key]: torch.from_numpy(np.asarray(batch[key])).to(device) for key in own}
        with torch.no_grad():
            found = module(**given)[field]
        return np.asarray(found.float().cpu().numpy())

    return run


def say(text: str) -> None:
    print(text, file=sys.stderr)
