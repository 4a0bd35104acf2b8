"""parity: fused attention, torch.compile and bfloat16 compute what eager float32 computes.

Compared are answers, the loss, the gradient of each parameter and the losses of twenty steps of AdamW. How
far two right ways may be apart depends on the model: it is measured by moving every weight up or down by
one rounding and looking what that does. A way is right if it is not much further off. What differs is
looked for module by module, and the certificate of all this is kept with the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import in_one_line
from torchstone.checks.alone import guilty_module
from torchstone.checks.alter import rounded_anew
from torchstone.checks.course import Course, Distances, apart, run_course
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.ways import BFLOAT16, FLOAT32, REFERENCE, Unavailable, Way, ways_of

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

SCHEMA = "torchstone.parity/1"
STEPS, FEW_STEPS = 20, 5
TOKENS = 16
TIMES = 4.0
"""How much further than one rounding of the weights a right way may be: it rounds after every operation."""
LEAST = {
    FLOAT32: {"answers": 1e-5, "loss": 1e-5, "gradients": 1e-4, "trajectory": 1e-4},
    BFLOAT16: {"answers": 2e-2, "loss": 2e-2, "gradients": 1e-1, "trajectory": 2e-2},
}
"""Limits below which nothing is called a difference."""


@dataclass(frozen=True)
class Compared:
    """One way beside the reference."""

    way: str
    status: str
    """equal, differs, or not run."""
    distances: Distances | None = None
    limits: dict[str, float] = field(default_factory=dict)
    why: str = ""
    note: str = ""

    @property
    def excess(self) -> float:
        """The largest distance over its limit."""
        found = self.distances.numbers() if self.distances else {}
        return max((value / self.limits[name] for name, value in found.items()), default=0.0)


def parity(context: Context, only: Sequence[str] = ()) -> CheckResult:
    """`only` names ways, of which the others are left out."""
    if not any(each.dtype == torch.float32 for each in context.module.parameters()):
        return context.skipped("the model has no float32 weights")
    length = min(context.plan.side_length, TOKENS)
    batch = context.batch(min(2, context.plan.max_batch_size), length=length)
    steps = FEW_STEPS if context.plan.shortened else STEPS
    try:
        reference = run_course(context, batch, REFERENCE, steps)
        again = run_course(context, batch, REFERENCE, 1)
    except (NotImplementedError, RuntimeError) as error:
        context.kept.restore()
        return context.skipped(f"the model cannot be trained for comparison here: {in_one_line(error)}")
    if not bool(torch.isfinite(reference.answers).any()) or not torch.isfinite(torch.tensor(reference.loss)):
        return context.skipped("answers or loss are not finite; numerical-stability judges that")
    if not torch.equal(reference.answers, again.answers):
        return context.skipped("two equal passes differ; see eval-determinism and state-leak")
    ways = [each for each in ways_of(context, batch) if each.name in only or not only]
    units = {each.rounding for each in ways}
    limits = {unit: _limits(context, batch, reference, unit, steps) for unit in units}
    compared = {
        each: _compare(context, batch, each, reference, limits[each.rounding], steps) for each in ways
    }
    return _judged(context, batch, compared, steps)


def _limits(context: Context, batch: Batch, reference: Course, unit: float, steps: int) -> dict[str, float]:
    with rounded_anew(context, unit):
        moved = run_course(context, batch, REFERENCE, steps)
    context.kept.restore()
    found = apart(moved, reference).numbers()
    return {name: max(least, TIMES * found.get(name, 0.0)) for name, least in LEAST[unit].items()}


def _compare(
    context: Context, batch: Batch, way: Way, reference: Course, limits: dict[str, float], steps: int
) -> Compared:
    try:
        distances = apart(run_course(context, batch, way, steps), reference)
    except Unavailable as reason:
        return Compared(way.name, "not run", why=str(reason), note=way.note)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return Compared(way.name, "not run", why=in_one_line(error), note=way.note)
    finally:
        context.kept.restore()
    found = Compared(way.name, "equal", distances, limits, note=way.note)
    return found if found.excess <= 1 else replace(found, status="differs")


def _judged(context: Context, batch: Batch, compared: dict[Way, Compared], steps: int) -> CheckResult:
    ran = {way: each for way, each in compared.items() if each.status != "not run"}
    left = {each.way: each.why for each in compared.values() if each.status == "not run"}
    said = "; ".join(f"{way}: {why}" for way, why in left.items())
    certificate: dict[str, Any] = {
        "schema": SCHEMA,
        "torch": str(torch.__version__),
        "device": context.device.type,
        "reference": "eager float32, attention written out",
        "steps": steps,
        "ways": [asdict(each) for each in compared.values()],
    }
    details = {"certificate": certificate}
    if not ran:
        return context.skipped(f"no other way could be taken: {said or 'none is known'}", details=details)
    worst = max(ran, key=lambda way: ran[way].excess)
    fields: dict[str, Any] = {
        "measured": ran[worst].excess, "limit": 1.0, "unit": "distance over its limit", "details": details,
    }  # fmt: skip
    if ran[worst].status == "differs":
        return _differs(context, batch, worst, ran[worst], fields)
    words = f"{', '.join(each.name for each in ran)}: as eager float32, over {steps} steps"
    say = context.warned if "compile" in left else context.passed
    return say(f"{words}{'; not compared: ' + said if said else ''}", **fields)


def _differs(
    context: Context, batch: Batch, way: Way, found: Compared, fields: dict[str, Any]
) -> CheckResult:
    assert found.distances is not None
    module = guilty_module(context, batch, way, found.limits["answers"])
    context.kept.restore()
    numbers = found.distances.numbers()
    what = max(numbers, key=lambda name: numbers[name] / found.limits[name])
    whose = f" of {found.distances.parameter}" if what == "gradients" else ""
    return context.failed(
        f"{way.name} computes something else{f' in {module}' if module else ''}: {what}{whose} off by "
        f"{numbers[what]:.1e}, allowed {found.limits[what]:.1e}",
        module=module,
        hint=_HINTS.get(way.name.partition("-")[0]),
        **fields,
    )


_HINTS = {
    "compile": "look for branches on torch.compiler.is_compiling or on values, and for state between calls",
    "bfloat16": "keep sums of squares, positions and long accumulations in float32",
    "inference": "a fused layer reads the weights itself: what a subclass overrides is not called",
    "sdpa": "look at rows whose every key is masked, and at masks that are not of the query's type",
}

CHECKS.add(
    Check(
        "parity",
        tier=2,
        title="the same in every kernel",
        proves="Fused attention, torch.compile and bfloat16 give answers, gradients and losses of float32.",
        run=parity,
    )
)
