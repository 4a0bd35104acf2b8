"""save-load: weights written as safetensors and read into a fresh model give the same answers, bit for bit.

The fresh model is the user's own object with every saved tensor, and every drawn tensor outside the state,
overwritten: what a new process would not have, is not there. Before saving, the model takes one training
pass, so that running statistics which are kept outside the state show.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from torchstone._errors import in_one_line
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.backward import apart, backward, small_step
from torchstone.checks.tier1.drawn import looks_drawn
from torchstone.checks.tier1.objective import answers
from torchstone.checks.tier1.outsiders import outsiders

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult


def save_load(context: Context) -> CheckResult:
    module = context.module
    batch = context.batch()
    strangers = [name for name, value in module.state_dict().items() if not isinstance(value, Tensor)]
    missing = _left_out(context)
    if missing:
        return context.failed(
            f"{len(missing)} registered tensors are not in state_dict(), such as {missing[0]}",
            measured=float(len(missing)),
            limit=0.0,
            unit="tensors",
            module=missing[0].rpartition(".")[0],
            hint="do not override state_dict() so that it leaves keys out",
            details={"missing": missing[:20]},
        )
    try:
        _take_a_step(context, batch)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        # A model that cannot take a training pass is saved as it came; gradient-flow tells about the rest.
        context.kept.restore()
        strangers.append(f"training pass: {type(error).__name__}")
    before = answers(context.forward(batch))
    with tempfile.TemporaryDirectory(prefix="torchstone-save-") as folder:
        path = Path(folder) / "model.safetensors"
        try:
            save_model(module, str(path))
        except (RuntimeError, ValueError, TypeError) as error:
            return context.failed(
                f"the weights cannot be written as safetensors: {in_one_line(error)}",
                measured=1.0,
                limit=0.0,
                unit="files",
                hint="let each parameter own its memory, or tie whole parameters instead of parts of them",
                details={"extra_state": strangers},
            )
        size = path.stat().st_size
        context.kept.restore()
        _make_fresh(context)
        try:
            lacking, surplus = load_model(module, str(path), strict=False)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            return context.failed(
                f"the saved weights cannot be read back: {in_one_line(error)}",
                measured=1.0,
                limit=0.0,
                unit="files",
                hint="see _load_from_state_dict and load_state_dict hooks of the model",
            )
    if lacking or surplus:
        names = sorted([*lacking, *surplus])
        return context.failed(
            f"{len(names)} keys do not fit when the weights are read back, such as {names[0]}",
            measured=float(len(names)),
            limit=0.0,
            unit="keys",
            hint="names must be the same before and after loading",
            details={"missing": sorted(lacking)[:20], "unexpected": sorted(surplus)[:20]},
        )
    return _compared(context, batch, before, size)


def _compared(context: Context, batch: Batch, before: list[Tensor], size: int) -> CheckResult:
    after = answers(context.forward(batch))
    off = apart(before, after)
    details: dict[str, Any] = {"bytes": size}
    if off == 0.0:
        return context.passed(
            f"answers are the same to the last bit after saving and loading ({size / 1e6:.1f} MB)",
            measured=0.0,
            limit=0.0,
            unit="relative",
            details=details,
        )
    unsteady = apart(after, answers(context.forward(batch)))
    if unsteady > 0.0:
        return context.skipped(
            "the model answers differently from call to call; eval-determinism judges that"
        )
    return context.failed(
        f"after saving and loading the answers differ by {off:.1e} of their size",
        measured=off,
        limit=0.0,
        unit="relative",
        module=_culprit(context),
        details=details,
        hint="something that shapes the output is not in state_dict(); see unregistered-parameters",
    )


def _left_out(context: Context) -> list[str]:
    """Registered and persistent, yet absent from the state."""
    state = context.module.state_dict()
    known = {each.data_ptr() for each in state.values() if isinstance(each, Tensor)}
    return [
        name for name, each in context.module.named_parameters()
        if name not in state and each.numel() and each.data_ptr() not in known
    ]  # fmt: skip


def _take_a_step(context: Context, batch: Batch) -> None:
    found = backward(context, batch)
    small_step(context.module, found.gradients)


def _make_fresh(context: Context) -> None:
    """Overwrite all that is in the state, and what lies outside of it with drawn or trained values."""
    generator = torch.Generator().manual_seed(context.seed + 3)
    outside = [
        value for each in outsiders(context.module) for value in each.tensors()
        if each.kind in ("module", "parameter") or looks_drawn(value)
    ]  # fmt: skip
    saved = [value for value in context.module.state_dict().values() if isinstance(value, Tensor)]
    with torch.no_grad():
        for value in [*saved, *outside]:
            data = value.data
            if data.is_floating_point():
                data.copy_(torch.randn(data.shape, generator=generator) * 0.5 + 0.1)
            else:
                data.zero_()


def _culprit(context: Context) -> str | None:
    for each in outsiders(context.module):
        if each.kind in ("module", "parameter") or any(looks_drawn(value) for value in each.tensors()):
            return each.holder
    return None


CHECKS.add(
    Check(
        "save-load",
        tier=1,
        title="save and load",
        proves="Saved and loaded into a fresh model, the weights give the same answers bit for bit.",
        run=save_load,
    )
)
