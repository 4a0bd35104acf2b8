"""export-parity: each format that the model is exported to answers as the model does, and how fast.

The model is exported by `torchstone.export`, whose own proof decides which formats hold. Those then answer a
wider grid: rows by lengths (one, odd, the longest), padded on either side. Limits are those of the proof. A
format that cannot be made is a failure of that format.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import MissingExtra, ModelError
from torchstone.checks.registry import CHECKS, Check
from torchstone.export.bundle import Bundle, Unsound, export, require_writer
from torchstone.export.formats import Format, chosen
from torchstone.export.golden import LONGEST, GoldenSet
from torchstone.export.program import SEQUENCE, example
from torchstone.export.source import Source
from torchstone.export.standalone.runtimes import CannotRun, open_format
from torchstone.export.standalone.verify import ABSOLUTE, TOLERANCES, Golden, prove

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

PROVEN = ("safetensors", "pt2", "pt2-int8", "onnx", "onnx-int8")
"""Formats that the check asks for; pairs with a cache and legacy ones are proven when they are exported."""
ROWS, LENGTHS = (1, 3, 8), (1, 7, 33)
"""And the longest sequence that the plan affords."""
ROUNDS = 7

Found = dict[str, Any]


def export_parity(context: Context, formats: Sequence[str] = PROVEN) -> CheckResult:
    if context.device.type != "cpu":
        return context.skipped("exports are proven on the CPU: --device cpu")
    wanted = chosen(formats)
    found = {each.name: _absent(each) for each in wanted}
    ready = [each for each in wanted if not found[each.name]]
    source = Source(context.loaded)
    with tempfile.TemporaryDirectory(prefix="torchstone-parity-") as place:
        try:
            bundle = export(source, Path(place) / "bundle", ready) if ready else None
        except Unsound as error:
            found |= {each.name: _failed(error.what, error.why) for each in ready}
        except ModelError:  # none holds; alone each says why
            found |= {each.name: _alone(source, each, Path(place) / each.name) for each in ready}
        else:
            if bundle is not None:
                found |= _proven(context, source, bundle, Path(place) / "grid")
    context.kept.restore()
    return _judged(context, found, source)


def _absent(format: Format) -> Found:
    try:
        require_writer(format)
    except MissingExtra as missing:
        return _failed(missing.what, missing.next)
    return {}


def _alone(source: Source, format: Format, place: Path) -> Found:
    try:
        export(source, place, [format])
    except ModelError as error:
        return _failed(error.why or error.what, None)
    return _failed("it holds, and the formats that it was asked for with do not", None)


def _failed(what: str, why: str | None) -> Found:
    return {"status": "fail", "why": f"{what}: {why}" if why else what}


def _proven(context: Context, source: Source, bundle: Bundle, place: Path) -> dict[str, Found]:
    grid = GoldenSet()
    for number, (what, batch) in enumerate(_grid(context, source)):
        with torch.no_grad():
            output = source.traceable(*(batch[each] for each in source.interface.names))
        grid.add(f"{number:02}", what, batch, output)
    place.mkdir()
    grid.write(place)
    golden = Golden(place)
    found = {}
    for each in bundle.formats:
        if each.status == "fail":
            found[each.name] = _failed(each.what or "it could not be made", each.why)
            continue
        proof = prove(bundle.path, bundle.manifest, each.name, golden)
        found[each.name] = {
            "status": "fail" if proof["status"] != "pass" else "pass",
            "why": proof["why"],
            "precision": proof["precision"],
            "cases": len(golden.cases) + len(bundle.golden.cases),
            "max_abs_diff": max(each.proof["max_abs"] or 0.0, proof.get("max_abs") or 0.0),
            "relative_l2": proof.get("relative_l2"),
            "top1": proof.get("top1"),
            "latency_ratio": _latency_ratio(source, bundle, each.name, golden),
        }
    return found


def _grid(context: Context, source: Source) -> Iterator[tuple[str, Batch]]:
    """Rows by lengths as far as the plan affords, then padding on either side."""
    adapter, interface = source.adapter, source.interface
    fixed = interface.fixed_length
    free = fixed is None and any(SEQUENCE in each.axes for each in interface.inputs)
    longest = min(LONGEST, interface.max_length or 2 * LENGTHS[-1], context.plan.longest)
    lengths = sorted({min(each, longest) for each in (*LENGTHS, longest)}) if free else [fixed or 16]
    for rows in ROWS:
        for length in lengths:
            if rows > 1 and rows * length > context.plan.affordable:
                continue
            what = f"{rows} x {length} tokens" if free else f"{rows} row{'s' * (rows > 1)}"
            yield what, example(adapter, rows, length, min(5, length), seed=rows + length)
    if not (free and interface.has_mask and longest > 2):
        return
    length = min(9, longest)
    for side in ("right", "left"):
        batch = example(adapter, 3, length, 3, seed=3)
        for row, hidden in enumerate((0, length // 2, length - 1)):
            places = slice(length - hidden, length) if side == "right" else slice(0, hidden)
            batch["attention_mask"][row, places] = 0
        yield f"3 x {length} tokens, padded on the {side}", batch


def _latency_ratio(source: Source, bundle: Bundle, name: str, golden: Golden) -> float | None:
    """Seconds of the format over those of the model on one case, median of interleaved rounds."""
    case = golden.cases[min(1, len(golden.cases) - 1)]
    inputs = golden.inputs(case, source.interface.names)
    tensors = [torch.from_numpy(each) for each in inputs.values()]
    try:
        run = open_format(bundle.path, bundle.manifest, name)
    except CannotRun:
        return None
    ratios = []
    for number in range(ROUNDS + 1):
        began = time.perf_counter()
        run(inputs)
        middle = time.perf_counter()
        with torch.no_grad():
            source.traceable(*tensors)
        if number:  # the first round warms up
            ratios.append((middle - began) / max(time.perf_counter() - middle, 1e-9))
    return round(statistics.median(ratios), 3)


def _judged(context: Context, found: dict[str, Found], source: Source) -> CheckResult:
    failed = {name: each["why"] for name, each in found.items() if each["status"] == "fail"}
    gaps = [each["max_abs_diff"] for each in found.values() if each.get("precision") == "float32"]
    fields: dict[str, Any] = {
        "measured": max(gaps, default=None),
        "limit": ABSOLUTE,
        "unit": "max abs, float32",
        "details": {"formats": found, "tolerances": TOLERANCES, "notes": source.notes},
    }
    if failed:
        first = next(iter(failed))
        return context.failed(
            f"{len(failed)} of {len(found)} formats do not hold; {first}: {failed[first]}",
            hint=f"torchstone export TARGET --formats {first} tells more",
            **fields,
        )
    cases = next(iter(found.values()))["cases"]
    return context.passed(f"{', '.join(found)} answer {cases} inputs as the model does", **fields)


CHECKS.add(
    Check(
        "export-parity",
        tier=4,
        title="exports are the model",
        proves="Every exported format answers as the model does, at every batch size, length and padding.",
        run=export_parity,
    )
)
