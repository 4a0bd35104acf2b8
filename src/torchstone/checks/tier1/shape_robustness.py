"""shape-robustness: every legal shape gives an answer of the right shape, made of numbers, that depends on
the input.
"""

from __future__ import annotations

import math
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import ModelError, TorchstoneError, in_one_line
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.finite import first_bad_module, not_numbers
from torchstone.checks.tier1.settled import settle

if TYPE_CHECKING:
    from torch import Tensor

    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult


@dataclass(frozen=True)
class Case:
    """One shape: `length` None where the main input has no token axis."""

    batch_size: int
    length: int | None

    @property
    def label(self) -> str:
        return f"({self.batch_size}, {self.length})" if self.length else f"({self.batch_size})"


def shape_robustness(context: Context) -> CheckResult:
    settle(context)
    rows: list[dict[str, Any]] = []
    for case in cases(context):
        rows.append({"case": case.label, **_probe(context, case)})
    if all("output" not in row for row in rows):
        raise ModelError(
            f"the model cannot be called with the inputs read from its signature: {rows[0]['problem']}",
            where=str(context.signature),
            next="pass inputs that a plain call accepts: check(model, inputs=...)",
        )
    bad = [row for row in rows if row["status"] == "fail"]
    refused = [row for row in rows if row["status"] == "refused"]
    details: dict[str, Any] = {"cases": rows}
    if bad:
        first = bad[0]
        return context.failed(
            f"{len(bad)} of {len(rows)} shapes fail; {first['case']}: {first['problem']}",
            measured=float(len(bad)),
            limit=0.0,
            unit="shapes",
            module=first.get("module"),
            hint=first.get("hint"),
            details=details,
        )
    if refused:
        return context.warned(
            f"the model refuses {len(refused)} of {len(rows)} shapes: {refused[0]['case']}: "
            f"{refused[0]['problem']}",
            measured=float(len(refused)),
            limit=0.0,
            unit="shapes",
            details=details,
        )
    ignoring = _ignores_input(context)
    if ignoring:
        return context.failed(
            "the output does not depend on the input: " + ignoring,
            measured=0.0,
            unit="max abs",
            details=details,
            hint="follow the main input through forward; it is overwritten, multiplied by zero or never used",
        )
    return context.passed(
        f"{len(rows)} shapes answered with the right shape, finite, and different for different inputs",
        measured=0.0,
        limit=0.0,
        unit="shapes",
        details=details,
    )


def cases(context: Context) -> list[Case]:
    """The shapes that users know, bounded by the model's own limit and the plan."""
    if not context.takes_tokens:
        return [Case(size, None) for size in dict.fromkeys((1, 2, min(3, context.plan.max_batch_size)))]
    plan = context.plan
    longest = max(1, min(context.facts.max_seq_len or plan.longest, plan.longest))
    wide = max(1, min(plan.max_batch_size, 4))
    wanted = [(1, 1), (1, longest), (plan.max_batch_size, 32), (wide, 64), (2, 13)]
    return [Case(*each) for each in dict.fromkeys((size, min(length, longest)) for size, length in wanted)]


def make(context: Context, case: Case, seed: int = 0) -> Batch:
    return context.batch(case.batch_size, length=case.length, seed=seed)


def _probe(context: Context, case: Case) -> dict[str, Any]:
    batch = make(context, case)
    try:
        output = context.forward(batch)
    except TorchstoneError:
        # We could not make or place the inputs: no fault of the model.
        raise
    except Exception as error:  # whatever the model raises is the finding
        kind = "refused" if is_refusal(error) else "fail"
        return {"status": kind, "problem": in_one_line(error)}
    main = output.main
    row: dict[str, Any] = {"output": list(main.shape), "status": "pass"}
    problem = _wrong_shape(context, case, batch, main)
    if problem:
        return row | {"status": "fail", "problem": problem, "hint": "return one row per input row"}
    if not_numbers([main]):
        module = first_bad_module(context.module, lambda: context.forward(batch))
        return row | {"status": "fail", "problem": "the output holds NaN or infinity", "module": module}
    return row


def is_refusal(error: BaseException) -> bool:
    """Whether the model's own code said `raise` or `assert` on purpose, rather than an operation crashed."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or isinstance(error, (AttributeError, UnboundLocalError)):
        return False
    last = frames[-1]
    inside_torch = Path(torch.__file__).parent in Path(last.filename).parents
    line = (last.line or "").lstrip()
    return not inside_torch and line.startswith(("raise", "assert"))


def _wrong_shape(context: Context, case: Case, batch: Batch, main: Tensor) -> str | None:
    kind = context.task.kind
    if main.dim() == 0:
        return "the main output is a single number"
    if main.shape[0] != case.batch_size:
        return f"{case.batch_size} rows went in, {main.shape[0]} came out (shape {tuple(main.shape)})"
    if kind not in ("causal-lm", "masked-lm") or case.length is None:
        return None
    if main.dim() == 3 and main.shape[1] != case.length and kind == "causal-lm":
        return f"{case.length} tokens went in, {main.shape[1]} came out (shape {tuple(main.shape)})"
    vocabulary = context.facts.vocab_size
    wide = main.dim() == 3 and vocabulary and main.shape[-1] == vocabulary
    if kind == "causal-lm" and main.dim() == 2 and vocabulary and not wide and case.length > 1:
        return f"a language model scores each token, the output has shape {tuple(main.shape)}"
    return None


def _ignores_input(context: Context) -> str | None:
    """A reason, if inputs that differ everywhere give the same answer at ordinary length."""
    answers = []
    for seed in (1, 2, 3):
        answers.append(context.main(context.batch(2, seed=seed, length=context.plan.side_length)))
    if any(each.shape != answers[0].shape for each in answers):
        return None
    differences = [float((each.float() - answers[0].float()).abs().max()) for each in answers[1:]]
    if max(differences) == 0.0:
        return f"three drawn batches give the same {math.prod(answers[0].shape)} numbers"
    return None


CHECKS.add(
    Check(
        "shape-robustness",
        tier=1,
        title="shapes",
        proves=(
            "Every legal shape is answered in the right shape, with finite numbers that depend on the input."
        ),
        run=shape_robustness,
    )
)
