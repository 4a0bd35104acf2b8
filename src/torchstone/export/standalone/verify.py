"""Prove this bundle again: hash every file, run every golden input through every format, compare.

    python verify.py [FOLDER] [--json] [--format onnx]

Needs numpy and the runtime of a format (onnxruntime, or torch); a format whose runtime is missing is said to
be skipped, never passed. Exit 0 if all that ran holds, 1 if something differs or nothing could run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from torchstone.export.standalone.runtimes import MANIFEST, CannotRun, Run, open_format, read_manifest

SCHEMA, SEAL = "torchstone.bundle/1", "manifest_sha256"
GOLDEN, CASES = "golden.npz", "golden.json"
ABSOLUTE, RELATIVE = 1e-4, 1e-4
"""float32: |found - golden| <= ABSOLUTE + RELATIVE * |golden|, each number."""
INT8_RELATIVE_L2, INT8_TOP1 = 0.05, 0.98
"""int8: norm of the difference over that of golden; share of positions with the same likeliest entry."""
TOLERANCES = {
    "float32": {"absolute": ABSOLUTE, "relative": RELATIVE},
    "int8": {"relative_l2": INT8_RELATIVE_L2, "top1": INT8_TOP1},
}


def verify(folder: Path, only: Sequence[str] = (), files_only: bool = False) -> dict[str, Any]:
    """The proof as plain values; `verdict` is pass, fail, or error where nothing could be run."""
    folder = Path(folder)
    problems, manifest = damage(folder)
    formats: list[dict[str, Any]] = []
    if not problems and not files_only:
        cases, problems = _golden(folder, manifest)
        for name, entry in manifest["formats"].items():
            if cases is not None and entry["runtime"] and (not only or name in only):
                formats.append(prove(folder, manifest, name, cases))
    ran = [each for each in formats if each["status"] in ("pass", "fail")]
    failed = problems or any(each["status"] == "fail" for each in formats)
    return {
        "schema": "torchstone.verify-bundle/1",
        "kind": "bundle",
        "path": str(folder),
        "verdict": "fail" if failed else "pass" if ran or files_only else "error",
        "problems": problems,
        "formats": formats,
    }


# --- files --------------------------------------------------------------------------------------


def damage(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with the files, each named; and the manifest, if it can be read."""
    try:
        manifest = read_manifest(folder)
        files = {
            str(name): (int(each["bytes"]), str(each["sha256"])) for name, each in manifest["files"].items()
        }
        manifest["formats"].items(), manifest["inputs"], manifest["output"], manifest["model"]
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"], {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"], {}
    if manifest.get("schema") != SCHEMA:
        return [f"{MANIFEST} has schema {manifest.get('schema')!r}, not {SCHEMA!r}"], manifest
    if manifest.get(SEAL) != seal_of(manifest):
        return [f"{MANIFEST} has other content than was written"], manifest
    if strange := [name for name in files if not is_inside(name)]:
        return [f"{MANIFEST} lists {strange[0]!r}, which lies elsewhere"], manifest
    problems = [
        found for name, known in sorted(files.items()) if (found := _file_damage(folder, name, *known))
    ]
    problems += [f"{name} was added" for name in sorted(_files_of(folder) - set(files))]
    if wide := _wider(manifest.get("tolerances", {})):
        problems.append(f"{MANIFEST} allows more than the proof does: {wide}")
    used = {each["file"] for each in manifest["formats"].values()} | {GOLDEN, CASES}
    problems += [f"{MANIFEST} does not vouch for {name}" for name in sorted(used - set(files))]
    return problems, manifest


def seal_of(manifest: Mapping[str, Any]) -> str:
    """sha256 over the content of a manifest, the seal itself left out."""
    content = {key: value for key, value in manifest.items() if key != SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _file_damage(folder: Path, name: str, size: int, digest: str) -> str:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return f"{name} is a link" if path.is_symlink() else f"{name} is missing"
    if (found := path.stat().st_size) != size:
        return f"{name} has {found} bytes instead of {size}"
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == digest
    return "" if same else f"{name} has other content than was written"


def _files_of(folder: Path) -> set[str]:
    """Every file of the bundle; what Python, git and the hub keep in a folder does not count."""
    found = set()
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if not hidden and (path.is_file() or path.is_symlink()):
            found.add(inside.as_posix())
    return found - {MANIFEST}


def _wider(told: Mapping[str, Any]) -> str:
    for precision, limits in TOLERANCES.items():
        for name, limit in limits.items():
            said = told.get(precision, {}).get(name, limit)
            if (said < limit) if name == "top1" else (said > limit):
                return f"{precision} {name} {said}"
    return ""


# --- outputs ------------------------------------------------------------------------------------


class Golden:
    """The golden inputs and outputs of a bundle."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / CASES).read_text(encoding="utf-8"))
        self.cases: list[dict[str, Any]] = told["cases"]
        self.texts: list[dict[str, Any]] = told["texts"]
        with np.load(folder / GOLDEN, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}

    def inputs(self, case: Mapping[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: self.arrays[f"{case['id']}/{name}"] for name in names}

    def problems(self, manifest: Mapping[str, Any]) -> list[str]:
        names = [each["name"] for each in manifest["inputs"]]
        needed = [f"{case['id']}/{name}" for case in self.cases for name in (*names, "values")]
        missing = [f"{GOLDEN} holds no {name}" for name in needed if name not in self.arrays]
        return missing[:1] if self.cases else [f"{CASES} holds no case"]


def _golden(folder: Path, manifest: Mapping[str, Any]) -> tuple[Golden | None, list[str]]:
    """The golden set, or why it cannot be used; and what is wrong with the texts."""
    try:
        cases = Golden(folder)
        missing = cases.problems(manifest)
    except Exception as problem:  # whatever is not what numpy and JSON expect; a pickle is refused
        return None, [f"{GOLDEN} cannot be read ({_first_line(problem)})"]
    return (None, missing) if missing else (cases, _text_problems(folder, cases))


def prove(
    folder: Path, manifest: Mapping[str, Any], name: str, golden: Golden, device: str = "cpu"
) -> dict[str, Any]:
    """One format over all golden cases: pass, fail, or skip with the reason."""
    precision = manifest["formats"][name].get("precision", "float32")
    report: dict[str, Any] = {
        "name": name,
        "precision": precision,
        "status": "pass",
        "why": None,
        "cases": [],
    }
    try:
        run = open_format(folder, manifest, name, device)
    except CannotRun as reason:
        return report | {"status": "skip", "why": str(reason)}
    except Exception as problem:  # whatever a runtime raises on a file that it cannot load
        return report | {"status": "fail", "why": f"it cannot be loaded: {_first_line(problem)}"}
    for case in golden.cases:
        found = _case(run, manifest, case, golden)
        report["cases"].append(found)
    judged = judge(report["cases"], precision)
    return report | judged


def _case(run: Run, manifest: Mapping[str, Any], case: Mapping[str, Any], golden: Golden) -> dict[str, Any]:
    inputs = golden.inputs(case, [each["name"] for each in manifest["inputs"]])
    try:
        output = run(inputs)
    except Exception as problem:  # a runtime refuses a shape in its own words
        return {"id": case["id"], "what": case["what"], "error": _first_line(problem)}
    return {"id": case["id"], "what": case["what"], **compare(output, case, golden)}


def compare(output: np.ndarray, case: Mapping[str, Any], golden: Golden) -> dict[str, Any]:
    """How far an output is from the golden one, over the positions that are no padding."""
    if list(output.shape) != list(case["shape"]):
        return {"error": f"the output has shape {list(output.shape)} instead of {list(case['shape'])}"}
    arrays, name = golden.arrays, case["id"]
    chosen = arrays.get(f"{name}/index")
    flat = output.astype(np.float64).reshape(-1)
    found = flat if chosen is None else flat[chosen]
    wanted = arrays[f"{name}/values"].astype(np.float64)
    difference = np.abs(found - wanted)
    allowed = ABSOLUTE + RELATIVE * np.abs(wanted)
    if not np.isfinite(found).all():
        return {"error": "the output holds NaN or infinities"}
    told: dict[str, Any] = {
        "max_abs": float(difference.max(initial=0.0)),
        "beyond": float((difference / allowed).max(initial=0.0)),
        "squares": [float((difference**2).sum()), float((wanted**2).sum())],
    }
    if f"{name}/top" in arrays:
        real = arrays[f"{name}/real"]
        same = (output.argmax(axis=-1).reshape(-1) == arrays[f"{name}/top"].reshape(-1))[real.reshape(-1)]
        told["top"] = [int(same.sum()), int(same.size)]
    return told


def judge(cases: Sequence[Mapping[str, Any]], precision: str) -> dict[str, Any]:
    """The verdict of one format from its cases."""
    errors = [each for each in cases if "error" in each]
    sound = [each for each in cases if "error" not in each]
    squares = np.array([each["squares"] for each in sound]).reshape(-1, 2).sum(axis=0)
    tops = [each["top"] for each in sound if "top" in each]
    measured: dict[str, Any] = {
        "max_abs": max((each["max_abs"] for each in sound), default=None),
        "relative_l2": float(np.sqrt(squares[0] / max(squares[1], 1e-30))),
        "top1": sum(same for same, _ in tops) / max(1, sum(count for _, count in tops)) if tops else None,
    }
    why = None
    if errors:
        why = f"{errors[0]['what']}: {errors[0]['error']}"
    elif precision == "int8":
        if measured["relative_l2"] > INT8_RELATIVE_L2:
            share = measured["relative_l2"]
            why = f"outputs differ by {share:.1%} of their norm, allowed are {INT8_RELATIVE_L2:.0%}"
        elif tops and measured["top1"] < INT8_TOP1:
            why = f"the likeliest entry is the same at {measured['top1']:.1%}, needed {INT8_TOP1:.0%}"
    elif worst := max(
        (each for each in sound if each["beyond"] > 1.0), key=lambda each: each["beyond"], default=None
    ):
        gap, times = worst["max_abs"], worst["beyond"]
        why = f"{worst['what']}: an output differs by {gap:.3g}, {times:.3g} times what is allowed"
    return {"status": "fail" if why else "pass", "why": why, **measured}


def _text_problems(folder: Path, golden: Golden) -> list[str]:
    """Texts whose ids are not the golden ones any more; nothing where `tokenizers` is not installed."""
    file = folder / "tokenizer.json"
    if not golden.texts or not file.is_file() or importlib.util.find_spec("tokenizers") is None:
        return []
    import tokenizers

    try:
        words = tokenizers.Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises plain Exception
        return [f"tokenizer.json cannot be loaded: {_first_line(problem)}"]
    words.no_padding()
    words.no_truncation()
    words.encode_special_tokens = True
    wrong = [
        each["text"]
        for each in golden.texts
        if words.encode(each["text"], add_special_tokens=each["marks"]).ids != each["ids"]
    ]
    return [f"tokenizer.json gives other ids for {wrong[0]!r}"] if wrong else []


def _first_line(problem: BaseException) -> str:
    text = str(problem).strip()
    return f"{type(problem).__name__}: {text.splitlines()[0][:300]}" if text else type(problem).__name__


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prove this bundle again.")
    parser.add_argument("folder", nargs="?", default=str(Path(__file__).resolve().parent))
    parser.add_argument("--format", action="append", default=[], help="only this format; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    wanted = parser.parse_args(arguments)
    found = verify(Path(wanted.folder), wanted.format)
    if wanted.json:
        print(json.dumps(found, indent=2))
    else:
        for each in found["formats"]:
            told = each["why"] or f"max abs {each['max_abs']:.2g} over {len(each['cases'])} golden inputs"
            print(f"{each['status'].upper():5} {each['name']:12} {told}")
        for problem in found["problems"]:
            print(f"FAIL  {problem}")
        print(f"{found['verdict']}: {found['path']}")
    return 0 if found["verdict"] == "pass" else 1


if __name__ == "__main__":
    sys.exit(main())
