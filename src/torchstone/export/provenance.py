"""Where a bundle comes from: configuration, environment, commit, and a bill of materials (CycloneDX)."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone import _files
from torchstone._version import __version__
from torchstone.tracking.environment import snapshot, version_of

if TYPE_CHECKING:
    from torchstone.export.formats import Format
    from torchstone.export.source import Source

ENVIRONMENT, CONFIG, TRAINING, SBOM = (
    "environment.json",
    "resolved_config.json",
    "training_environment.json",
    "sbom.cdx.json",
)
REQUIREMENTS = "requirements.txt"


def write(source: Source, folder: Path) -> None:
    """Environment of the export; of a run also its resolved configuration and its own environment."""
    _files.write_json(folder / ENVIRONMENT, snapshot(source.home))
    if source.home is None:
        resolved = {
            "schema": "torchstone.model-config/1",
            "target": source.model.target,
            "model": source.model.config,
        }
        _files.write_json(folder / CONFIG, resolved)
        return
    for name, here in (("config.json", CONFIG), (ENVIRONMENT, TRAINING)):
        if (source.home / name).is_file():
            shutil.copyfile(source.home / name, folder / here)


def requirements(formats: tuple[Format, ...], source: Source) -> dict[str, str]:
    """What the programs of the bundle import, at the versions that the proof ran with."""
    wanted = ["numpy"]
    runtimes = {each.runtime for each in formats}
    if "onnx" in runtimes:
        wanted.append("onnxruntime")
    if "torch" in runtimes:
        wanted += ["torch", "safetensors"]
        if source.is_transformers and any(each.name == "safetensors" for each in formats):
            wanted.append("transformers")
    if source.tokenizer is not None:
        wanted.append("tokenizers")
    if source.model.task.is_vision:
        wanted.append("pillow")
    found = {name: version_of(name) for name in wanted}
    # The local part of a version (2.13.0+cpu) names a build that an index may not have.
    return {name: version.partition("+")[0] for name, version in found.items() if version}


def write_requirements(folder: Path, wanted: dict[str, str]) -> None:
    lines = ["# What inference.py and verify.py import, as the proof ran with it."]
    lines += [f"{name}=={version}" for name, version in wanted.items()]
    _files.write_text(folder / REQUIREMENTS, "\n".join(lines) + "\n")


def write_sbom(source: Source, folder: Path, wanted: dict[str, str]) -> None:
    """CycloneDX 1.6: the model with the hashes of its files, and the packages that run it."""
    model = source.model
    files = sorted(
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".pt2", ".onnx", ".pt")
    )
    _files.write_json(
        folder / SBOM,
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "tools": {
                    "components": [{"type": "application", "name": "torchstone", "version": __version__}]
                },
                "component": {
                    "type": "machine-learning-model",
                    "bom-ref": "model",
                    "name": model.class_name,
                    "version": model.fingerprint[:12],
                    "modelCard": {
                        "modelParameters": {"task": model.task.kind, "architectureFamily": model.class_name}
                    },
                },
            },
            "components": [*(_file(each) for each in files), *(_package(*each) for each in wanted.items())],
            "dependencies": [
                {
                    "ref": "model",
                    "dependsOn": [f"pkg:pypi/{name}@{version}" for name, version in wanted.items()],
                }
            ],
        },
    )


def _file(path: Path) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{path.name}",
        "name": path.name,
        "hashes": [{"alg": "SHA-256", "content": _files.sha256(path)}],
    }


def _package(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version}"
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    about = importlib.metadata.metadata(name).json
    licence = about.get("license_expression") or about.get("license")
    if isinstance(licence, str) and "\n" not in licence and len(licence) < 80:
        found["licenses"] = [{"license": {"name": licence}}]
    return found
