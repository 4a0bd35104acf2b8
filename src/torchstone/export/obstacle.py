"""What stands in the way of an export, in one sentence: the operator, the input, or the line of the model.

The exporters' own messages run to pages and begin with advice; what a reader needs stands somewhere in them.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

_MISSING_OPERATOR = re.compile(
    r"(?:No ONNX function found for|Unsupported FX nodes:|Missing.*?operator)[^\n]*?"
    r"((?:aten|torchvision|quantized|prims|\w+)(?:\.|::)\w+(?:\.\w+)?)"
)
_RANGE = re.compile(r"L\['(?:args|tensors)'\]\[(\d+)\](?:\.size\(\)\[(\d+)\])?")
_CONSTRAINT = re.compile(r"^\s*-\s*(Not all values of .*|You marked .*)$", re.MULTILINE)
_DATA = re.compile(r"(Could not (?:guard on|extract specialized)[^\n]*)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def obstacle(problem: BaseException, names: Sequence[str] = ()) -> str:
    """One sentence about the first cause in the chain that says something."""
    chain = list(_chain(problem))
    for each in chain:
        text = _COLOURS.sub("", str(each))
        if found := _MISSING_OPERATOR.search(text):
            return f"the operator {found[1]} has no counterpart in the format"
        if found := _CONSTRAINT.search(text):
            return _with_names(found[1].strip(), names)
        if found := _DATA.search(text):
            return f"{_with_names(found[1].strip(), names)}{_place(chain)}"
    root = chain[-1]
    first = next((line.strip() for line in _COLOURS.sub("", str(root)).splitlines() if line.strip()), "")
    return f"{type(root).__name__}: {_with_names(first, names)}{_place(chain)}"[:600]


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """The problem, then what caused it, to the root."""
    seen: set[int] = set()
    current: BaseException | None = problem
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _with_names(text: str, names: Sequence[str]) -> str:
    """Inputs by the names that a user knows, not by their places in a tuple."""

    def named(match: re.Match[str]) -> str:
        place = int(match[1])
        name = names[place] if place < len(names) else match[0]
        return name if match[2] is None else f"dimension {match[2]} of {name}"

    return _RANGE.sub(named, text)


def _place(chain: Sequence[BaseException]) -> str:
    """The last line that is the model's own, neither torch's nor ours."""
    for each in reversed(chain):
        for frame in reversed(traceback.extract_tb(each.__traceback__)):
            path = Path(frame.filename)
            if not {"torch", "torchstone", "onnxscript", "onnx_ir"} & set(path.parts):
                return f" (at {path.name}:{frame.lineno}: {frame.line})" if frame.line else ""
    return ""
