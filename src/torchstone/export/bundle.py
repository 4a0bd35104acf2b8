"""Export a model as a bundle that carries its proof: formats, golden inputs and outputs, hashes, origin.

    bundle = export(open_source("zoo:gpt-nano"), Path("out"), chosen("safetensors,pt2,onnx"))
    bundle.verdict                               # "pass", or "fail" with the formats that are missing and why

Everything is written into a hidden neighbour that takes the bundle's name in one rename; a format whose proof
fails is not in it. A model that is itself unsound (NaN weights, a tokenizer too large) leaves nothing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from torchstone import _files
from torchstone._errors import ModelError, TorchstoneError, UsageError
from torchstone._version import __version__
from torchstone.export import health as checks
from torchstone.export import provenance, words
from torchstone.export.card import card
from torchstone.export.formats import Format
from torchstone.export.golden import GoldenSet, make_golden
from torchstone.export.health import Health
from torchstone.export.source import Source
from torchstone.export.standalone import verify as proof
from torchstone.export.standalone.runtimes import MANIFEST

Beside = Callable[[Mapping[str, Any], Mapping[str, str]], Mapping[str, str]]
"""From the manifest and the versions it needs: texts of more files, by name."""
STANDALONE = ("runtimes.py", "verify.py", "decoding.py", "inference.py")


class Unsound(ModelError):
    """The model itself must not leave: `why` names the checks that failed."""


@dataclass
class Made:
    """One format: what was written, or why it was not."""

    name: str
    status: str
    """pass; fail: it could not be made, or its proof failed; skip: made, but nothing here can run it."""
    seconds: float = 0.0
    entry: dict[str, Any] = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)
    what: str | None = None
    why: str | None = None
    next: str | None = None

    def to_dict(self, files: dict[str, Any]) -> dict[str, Any]:
        file = self.entry.get("file")
        return {
            "name": self.name,
            "status": self.status,
            "file": file if self.status != "fail" else None,
            "bytes": files[file]["bytes"] if file in files else None,
            "precision": self.proof.get("precision"),
            "max_abs": self.proof.get("max_abs"),
            "relative_l2": self.proof.get("relative_l2"),
            "top1": self.proof.get("top1"),
            "seconds": round(self.seconds, 3),
            "what": self.what,
            "why": self.why,
            "next": self.next,
        }


@dataclass
class Bundle:
    """What came of an export."""

    path: Path
    manifest: dict[str, Any]
    formats: list[Made]
    health: Health
    golden: GoldenSet
    notes: list[str]
    seconds: float

    @property
    def verdict(self) -> str:
        return self.health.verdict

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.export/1` object."""
        files = self.manifest["files"]
        return {
            "schema": "torchstone.export/1",
            "path": str(self.path),
            "verdict": self.verdict,
            "model": self.manifest["model"],
            "formats": [each.to_dict(files) for each in self.formats],
            "health": self.health.to_dict(),
            "golden": {
                "cases": [each["what"] for each in self.golden.cases],
                "left_out": self.golden.left_out,
            },
            "files": files,
            "bytes": sum(each["bytes"] for each in files.values()),
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
        }


def export(
    source: Source,
    out: Path,
    formats: Sequence[Format],
    *,
    replace: bool = False,
    beside: Beside | None = None,
) -> Bundle:
    """Write the bundle `out`. Unsound if the model must not leave; ModelError if no format holds.

    `beside` gives texts that lie in the bundle too, such as the server's.
    """
    began = time.monotonic()
    require_place(out, replace)
    for each in formats:
        require_writer(each)
    health = Health()
    with _aside(out) as folder:
        golden = _require_sound(source, health)
        made = [_make(each, source, folder) for each in formats]
        golden.write(folder)
        notes = _write_words(source, folder, golden, health)
        manifest = _manifest(source, made)
        for one in made:
            _prove(one, folder, manifest, golden, health)
        _require_some(made, health)
        manifest["formats"] = {each.name: each.entry for each in made if each.status != "fail"}
        _write_rest(source, folder, formats, made, manifest, health, beside)
        seal(folder, manifest)
        _publish(folder, out)
    return Bundle(out, manifest, made, health, golden, [*source.notes, *notes], time.monotonic() - began)


def require_place(out: Path, replace: bool) -> None:
    """UsageError where something else lies, or a bundle that nobody said to replace."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise UsageError(f"{out} exists, and is no bundle", next="give another --out")
    if not replace:
        raise UsageError(f"{out} holds a bundle already", next="--yes replaces it, or give another --out")


def require_writer(format: Format) -> None:
    """MissingExtra where a package is missing that this format is written with."""
    from torchstone._optional import require

    for each in format.packages:
        require(each, format.extra or "export")


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Every file by size and hash, then the seal over all of it; written last."""
    (folder / MANIFEST).unlink(missing_ok=True)  # it cannot hold its own hash
    manifest["files"] = _files.inventory(folder)
    manifest[proof.SEAL] = proof.seal_of(manifest)
    _files.write_json(folder / MANIFEST, manifest)


# --- the steps ----------------------------------------------------------------------------------


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_sound(source: Source, health: Health) -> GoldenSet:
    """Checks of the model itself; nothing is written of one that fails them."""
    source.module.eval()
    checks.check_weights(health, source)
    checks.check_memory(health, source)
    checks.check_tokenizer(health, source)
    _refuse(health)
    golden = make_golden(source)
    health.add("golden", "pass", f"{len(golden.cases)} golden inputs have finite outputs")
    checks.check_determinism(health, source, golden)
    _refuse(health)
    return golden


def _refuse(health: Health) -> None:
    if health.failed:
        first = health.failed[0]
        raise Unsound(
            f"the model is not exported: {first.summary}",
            where=first.module or "",
            why=first.why or f"health score {health.score:g} of 100",
            next=first.hint or "",
        )


def _make(format: Format, source: Source, folder: Path) -> Made:
    """Write one format into a place of its own, then beside the others; a failure leaves nothing."""
    began = time.monotonic()
    place = folder / f".{format.name}"
    place.mkdir()
    try:
        entry = format.write(source, place)
    except TorchstoneError as problem:
        shutil.rmtree(place)
        seconds = time.monotonic() - began
        return Made(format.name, "fail", seconds, what=problem.what, why=problem.why, next=problem.next)
    entry |= {"runtime": format.runtime, "precision": format.precision}
    if format.legacy:
        entry["legacy"] = format.legacy
    entry["own"] = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    for path in sorted(place.iterdir()):
        path.rename(folder / path.name)
    place.rmdir()
    return Made(format.name, "pass", time.monotonic() - began, entry)


def _write_words(source: Source, folder: Path, golden: GoldenSet, health: Health) -> list[str]:
    try:
        notes = words.write(source, folder, golden.texts)
    except TorchstoneError as problem:
        health.add("tokenizer-files", "fail", problem.what, why=problem.why)
        _refuse(health)
        raise
    if source.tokenizer is not None:
        health.add("tokenizer-files", "pass", f"{len(golden.texts)} texts have the same ids when read back")
    return notes


def _manifest(source: Source, made: Sequence[Made]) -> dict[str, Any]:
    model, binding = source.model, source.adapter.binding
    facts, task = model.facts, model.task
    interface = source.interface.to_dict()
    for each in interface["inputs"]:
        each["argument"] = binding.own_name(each["name"]) or each["name"]
    interface["output"]["field"] = source.main_name
    about = {
        "target": model.target,
        "class": model.class_name,
        "fingerprint": model.fingerprint,
        "task": task.kind,
        "parameters": sum(each.numel() for each in model.module.parameters()),
        "vocab_size": facts.vocab_size,
        "num_classes": facts.num_classes,
        "labels": source.labels,
        "pad_token_id": facts.pad_token_id if source.tokenizer is None else source.tokenizer.pad_token_id,
        "eos_token_id": source.eos_token_id,
        "decoder_start_token_id": facts.decoder_start_token_id,
        "marks": source.marks,
        "image": source.image,
    }
    return {
        "schema": proof.SCHEMA,
        "torchstone": __version__,
        "torch": str(torch.__version__),
        "model": about,
        **interface,
        "formats": {each.name: each.entry for each in made if each.status != "fail"},
        "tolerances": proof.TOLERANCES,
    }


def _prove(made: Made, folder: Path, manifest: dict[str, Any], golden: GoldenSet, health: Health) -> None:
    """Run the golden inputs; a format that does not hold is taken out again."""
    if made.status == "fail":
        health.add(f"format-{made.name}", "fail", made.what or "it could not be made", why=made.why)
        return
    began = time.monotonic()
    made.proof = proof.prove(folder, manifest, made.name, proof.Golden(folder))
    made.seconds += time.monotonic() - began
    made.status, made.why = made.proof["status"], made.proof["why"]
    if made.status == "fail":
        made.what = "its outputs are not the model's"
        for name in made.entry["own"]:
            (folder / name).unlink()
        health.add(f"format-{made.name}", "fail", made.what, why=made.why)
    elif made.status == "skip":
        health.add(f"format-{made.name}", "skip", "written, not run", why=made.why)
    else:
        gap = made.proof["max_abs"]
        health.add(
            f"format-{made.name}",
            "pass",
            f"{len(golden.cases)} golden inputs, the largest difference is {gap:.2g}",
            measured=gap,
            unit="max abs",
        )


def _require_some(made: Sequence[Made], health: Health) -> None:
    if any(each.status != "fail" for each in made):
        return
    told = "; ".join(f"{each.name}: {each.what}{': ' + each.why if each.why else ''}" for each in made)
    raise ModelError(
        "no format could be exported", why=told, next=next((each.next for each in made if each.next), "")
    )


def _write_rest(
    source: Source,
    folder: Path,
    formats: Sequence[Format],
    made: Sequence[Made],
    manifest: dict[str, Any],
    health: Health,
    beside: Beside | None,
) -> None:
    kept = tuple(each for each, one in zip(formats, made, strict=True) if one.status != "fail")
    wanted = provenance.requirements(kept, source)
    provenance.write(source, folder)
    provenance.write_requirements(folder, wanted)
    provenance.write_sbom(source, folder, wanted)
    _files.write_json(folder / "health.json", health.to_dict())
    _files.write_text(folder / "health.md", health.to_markdown())
    _files.write_text(
        folder / "README.md",
        card(source, manifest, [each.proof for each in made if each.proof and each.status != "fail"]),
    )
    for name in STANDALONE:
        # There the three lie beside each other, outside any package.
        text = (Path(proof.__file__).parent / name).read_text(encoding="utf-8")
        _files.write_text(folder / name, text.replace("torchstone.export.standalone.", ""))
    for name, text in (beside(manifest, wanted) if beside else {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _files.write_text(folder / name, text)


def _publish(folder: Path, out: Path) -> None:
    if out.exists():
        _files.take_place(folder, out)
    else:
        folder.rename(out)
    _files.flush(out.parent)
