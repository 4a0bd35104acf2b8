"""The model card: a YAML header that the hub reads, then what the model is, its proof, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchstone import _files
from torchstone._version import __version__

if TYPE_CHECKING:
    from torchstone.export.source import Source

PIPELINES = {
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "encoder": "feature-extraction",
    "classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "seq2seq": "text2text-generation",
    "vision": "image-classification",
    "audio": "automatic-speech-recognition",
    "multimodal": "image-text-to-text",
    "regression": "text-classification",
}
"""What the hub calls each kind of task."""


def card(source: Source, manifest: Mapping[str, Any], proofs: list[dict[str, Any]]) -> str:
    """README.md of a bundle. Every number in it comes from the manifest, the proof or the run."""
    model = source.model
    lines = ["---", *_header(source, manifest), "---", "", f"# {model.class_name}", ""]
    lines += [
        f"A {model.task.kind} model of {manifest['model']['parameters']:,} parameters,"
        f" exported by torchstone {__version__}.",
        "",
        "| | |",
        "|---|---|",
        f"| inputs | {_shapes(manifest['inputs'])} |",
        f"| output | {_shapes([manifest['output']])} |",
        f"| longest sequence | {manifest['max_length'] or 'no limit known'} |",
        f"| vocabulary | {model.facts.vocab_size or 'none'} |",
        f"| fingerprint | `{model.fingerprint[:16]}` |",
        "",
        "## Proof",
        "",
        "Each format ran every golden input when it was exported; `python verify.py` runs them again.",
        "",
        "| format | file | precision | largest difference | verdict |",
        "|---|---|---|---|---|",
    ]
    for each in proofs:
        entry = manifest["formats"][each["name"]]
        gap = "not run" if each.get("max_abs") is None else f"{each['max_abs']:.2g}"
        lines.append(
            f"| {each['name']} | `{entry['file']}` | {each['precision']} | {gap} | {each['status']} |"
        )
    lines += ["", *_training(source), *_usage(manifest)]
    return "\n".join(lines) + "\n"


def _header(source: Source, manifest: Mapping[str, Any]) -> list[str]:
    tags = ["torchstone", *manifest["formats"]]
    library = "transformers" if source.is_transformers else "torchstone"
    return [
        f"library_name: {library}",
        f"pipeline_tag: {PIPELINES[source.model.task.kind]}",
        "tags:",
        *(f"- {each}" for each in tags),
    ]


def _shapes(tensors: list[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"`{each['name']}` ({', '.join(map(str, each['axes']))}) {each['dtype']}" for each in tensors
    )


def _training(source: Source) -> list[str]:
    """What the run measured; nothing where there was none."""
    report = source.home / "report.json" if source.home is not None else None
    if report is None or not report.is_file():
        return []
    told = _files.read_json(report)
    final, best = told.get("final") or {}, told.get("best") or {}
    rows = [("steps", told.get("steps")), (told.get("unit", "tokens"), told.get("tokens")), *final.items()]
    rows += [(f"best {name}", value) for name, value in best.items() if name != "checkpoint"]
    shown = [(name, value) for name, value in rows if isinstance(value, int | float)]
    if not shown:
        return []
    return [
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_number(value)} |" for name, value in shown),
        "",
    ]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _usage(manifest: Mapping[str, Any]) -> list[str]:
    first = next((name for name in ("onnx", "pt2", "safetensors") if name in manifest["formats"]), "onnx")
    flag = {"safetensors": "torch"}.get(first, first)
    return [
        "## Use",
        "",
        "```",
        "pip install -r requirements.txt",
        f"python inference.py --format {flag} --input {json.dumps('Once upon a time')}",
        "python verify.py",
        "```",
    ]
