"""unregistered-parameters: all that shapes the answer is registered, so that it is trained, moved and saved.

Modules in plain lists, tensors as attributes, closures, and buffers left out of the state. What follows from
a rule (masks, rotary tables) is rebuilt by every construction and may stay outside; what was drawn is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.backward import apart, shaken_tensors
from torchstone.checks.tier1.drawn import looks_drawn
from torchstone.checks.tier1.objective import answers
from torchstone.checks.tier1.outsiders import Outsider, outsiders

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

_MOVES = 1e-6
_ASKED = 40


def unregistered_parameters(context: Context) -> CheckResult:
    batch = context.batch()

    def answer() -> list[Tensor]:
        return answers(context.forward(batch))

    clean = answer()
    found = [each for each in outsiders(context.module) if each.tensors()]
    harmless: list[Outsider] = []
    lost: list[Outsider] = []
    idle: list[Outsider] = []
    for each in found[:_ASKED]:
        if each.kind in ("tensor", "buffer") and not any(looks_drawn(value) for value in each.tensors()):
            harmless.append(each)
            continue
        with shaken_tensors(each.tensors(), context.seed):
            moved = apart(clean, answer())
        (lost if moved > _MOVES else idle).append(each)
    details = {
        "lost": [each.path for each in lost],
        "unused": [each.path for each in idle],
        "rebuilt_by_rule": [each.path for each in harmless][:20],
    }
    if lost:
        first = lost[0]
        return context.failed(
            f"{first.path} shapes the output, but {_WHAT[first.kind]}",
            measured=float(len(lost)),
            limit=0.0,
            unit="finds",
            module=first.holder,
            hint=_HINT[first.kind],
            details=details,
        )
    learned = [each for each in idle if each.kind in ("module", "parameter")]
    if learned:
        return context.warned(
            f"{learned[0].path} holds weights outside the model; they do not move the output for "
            "these inputs",
            measured=float(len(learned)),
            limit=0.0,
            unit="finds",
            module=learned[0].holder,
            hint=_HINT[learned[0].kind],
            details=details,
        )
    said = f"; {len(harmless)} tables follow from a rule" if harmless else ""
    return context.passed(
        f"nothing outside parameters and saved buffers shapes the output{said}",
        measured=0.0,
        limit=0.0,
        unit="finds",
        details=details,
    )


_WHAT = {
    "module": "the module is not registered: it is not in parameters() nor in state_dict()",
    "parameter": "the parameter is not registered: it is neither trained by an optimizer nor saved",
    "tensor": "it is a plain attribute with drawn values: it is neither moved nor saved",
    "buffer": "it was drawn and is left out of the state (persistent=False): it is lost on save",
}
_HINT = {
    "module": "use nn.ModuleList or nn.ModuleDict instead of a plain list or dict",
    "parameter": "assign it as nn.Parameter to the module, or use nn.ParameterList",
    "tensor": "use self.register_buffer(name, tensor) or nn.Parameter",
    "buffer": "register it with persistent=True",
}


CHECKS.add(
    Check(
        "unregistered-parameters",
        tier=1,
        title="unregistered weights",
        proves="All weights that shape the output are registered and saved.",
        run=unregistered_parameters,
    )
)
