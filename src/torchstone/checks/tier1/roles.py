"""What a parameter is for, and whether its values suit that role.

The judge is a pure function of values, shape and owner: it runs no model. What only shows in behaviour (a
dead branch, a gradient that stops) is the business of other checks.

Roles: `vector` (biases, norm weights, scales: anything with one long axis), `linear` (a map with a fan-in),
`table` (embeddings: rows are looked up), `other` (raw matrices with a design of their own, such as state-
space decays).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

_TABLES = (nn.Embedding, nn.EmbeddingBag)
_MAPS = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.modules.conv._ConvNd)

# Ratios between the measured standard deviation and the one that the role asks for. Trained weights of public
# models stay within them; a forgotten 1/sqrt(fan_in), a doubled one or a wrong decimal does not.
LINEAR_WARN, LINEAR_FAIL = 6.0, 30.0
TABLE_WARN, TABLE_FAIL = 10.0, 100.0
TINY = 1 / 200


@dataclass(frozen=True)
class Verdict:
    """Judgement of one parameter: `status` pass, warn or fail, and the reason unless it passes."""

    name: str
    role: str
    status: str
    reason: str = ""
    std: float | None = None
    ratio: float | None = None
    """Standard deviation over the expected one, where the role has an expectation."""


def named_owners(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module, str]]:
    """Each parameter once: its name, itself, the module that holds it, and its name there."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for own_name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{own_name}" if path else own_name, parameter, owner, own_name


def role_of(parameter: Tensor, owner: nn.Module, own_name: str) -> str:
    """The role by shape and by how the owner uses its parameters; names of classes play no part."""
    if sum(size > 1 for size in parameter.shape) <= 1:
        return "vector"
    if isinstance(owner, _TABLES):
        return "table"
    if isinstance(owner, _MAPS):
        return "linear"
    # A home-made linear layer: a two-dimensional `weight`, alone or beside a bias as long as one of its
    # sides.
    others = {name: each for name, each in owner.named_parameters(recurse=False) if each is not parameter}
    if (
        own_name == "weight"
        and parameter.dim() == 2
        and all(each.dim() == 1 and each.numel() in parameter.shape for each in others.values())
    ):
        return "linear"
    return "other"


def fan_in(parameter: Tensor, owner: nn.Module) -> int:
    """Inputs that one output of the map sums over; the smaller side where the layout is not known."""
    if isinstance(owner, (nn.Linear, nn.MultiheadAttention, nn.RNNBase)):
        return parameter.shape[-1]
    if isinstance(owner, nn.modules.conv._ConvNd):
        return math.prod(parameter.shape[1:])
    return min(parameter.shape)


def judge(name: str, parameter: Tensor, owner: nn.Module, own_name: str = "weight") -> Verdict:
    """Whether the values of `parameter` suit its role."""
    role = role_of(parameter, owner, own_name)
    values = parameter.detach()
    if not values.is_floating_point() or not values.numel():
        return Verdict(name, role, "pass")
    values = values.float()
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        return Verdict(name, role, "fail", f"{bad} of {values.numel()} values are NaN or infinite")
    if role == "vector":
        return _judge_vector(name, values)
    std, mean = float(values.std()), float(values.mean())
    if std == 0.0 or std < 1e-6 * abs(mean):
        return _judge_constant(name, role, mean, owner)
    if role == "other":
        wild = std > 1e4
        return Verdict(name, role, "warn" if wild else "pass", f"std {std:.3g}" if wild else "", std)
    found = _judge_rows(name, role, values, owner)
    if found is not None:
        return found
    return _judge_table(name, std) if role == "table" else _judge_map(name, std, mean, values, owner)


def _judge_vector(name: str, values: Tensor) -> Verdict:
    largest = float(values.abs().max())
    if largest > 1e5:
        return Verdict(name, "vector", "warn", f"holds a value of {largest:.3g}")
    return Verdict(name, "vector", "pass")


def _judge_constant(name: str, role: str, mean: float, owner: nn.Module) -> Verdict:
    if mean == 0.0 and role != "table":
        # The last map of a residual branch may start at zero; whether it then learns, gradient-flow tells.
        return Verdict(name, role, "warn" if role == "linear" else "pass", "all values are zero", 0.0, 0.0)
    if role == "other":
        # Decays and biases of a designed recurrence may start at one value everywhere.
        return Verdict(name, role, "pass", std=0.0)
    what = "all values are zero" if mean == 0.0 else f"all values are {mean:.3g}"
    lookup = isinstance(owner, _TABLES) and mean == 0.0
    if lookup:
        return Verdict(
            name, role, "warn", f"{what}: rows cannot be told apart until they are trained", 0.0, 0.0
        )
    return Verdict(name, role, "fail", f"{what}: its outputs stay equal for ever", 0.0)


def _judge_rows(name: str, role: str, values: Tensor, owner: nn.Module) -> Verdict | None:
    """Equal rows compute (or look up) the same thing. Padded vocabularies repeat some: the bound is a half.

    Convolutions in front of a pixel shuffle may start with each filter repeated once per sub-pixel.
    """
    share = 32 if isinstance(owner, nn.modules.conv._ConvNd) else 2
    rows = values.flatten(1) if values.dim() == 2 or role == "linear" else values.flatten(0, -2)
    for which, each in (("rows", rows), ("columns", rows.t() if values.dim() == 2 else None)):
        if each is None or len(each) < 4 or each.shape[1] < 2:
            continue
        distinct = _distinct_rows(each)
        if distinct <= max(1, len(each) // share):
            return Verdict(name, role, "fail", f"only {distinct} of {len(each)} {which} are distinct")
    return None


def _distinct_rows(rows: Tensor) -> int:
    """Number of different rows; zero ones count as different (pruned, padded or not yet trained)."""
    rows = rows.cpu()  # Apple's GPU has no float64
    key = torch.linspace(1.0, 2.0, rows.shape[1], dtype=torch.float64).cos()
    marks = rows.double() @ key
    zero = int((rows == 0).all(dim=1).sum())
    return len(torch.unique(marks)) - (1 if zero else 0) + zero


def _judge_table(name: str, std: float) -> Verdict:
    for bound, status in ((TABLE_FAIL, "fail"), (TABLE_WARN, "warn")):
        if std > bound:
            return Verdict(name, "table", status, f"std {std:.3g}, embeddings stay below {bound:g}", std, std)
    if std < 1e-6:
        return Verdict(name, "table", "fail", f"std {std:.3g}: rows cannot be told apart", std, std)
    return Verdict(name, "table", "pass", std=std, ratio=std)


def _judge_map(name: str, std: float, mean: float, values: Tensor, owner: nn.Module) -> Verdict:
    inputs = fan_in(values, owner)
    # Two families live side by side: a fixed 0.02 and 1/sqrt(fan_in), with a factor of sqrt(6) on top
    # for gains.
    expected_high = max(0.02, 1 / math.sqrt(inputs))
    expected_low = min(0.02, 1 / math.sqrt(inputs))
    high, low = std / expected_high, std / expected_low
    for bound, status in ((LINEAR_FAIL, "fail"), (LINEAR_WARN, "warn")):
        if high > bound:
            reason = f"std {std:.3g} is {high:.0f} times what a fan-in of {inputs} asks for"
            return Verdict(name, "linear", status, reason, std, high)
    if low < TINY:
        reason = f"std {std:.3g} is {low:.1e} of what a fan-in of {inputs} asks for"
        return Verdict(name, "linear", "warn", reason, std, low)
    lean = abs(mean) / std
    if inputs >= 16 and values.numel() >= 256 and lean > 0.5:
        status = "fail" if lean > 1.0 else "warn"
        return Verdict(
            name, "linear", status, f"mean {mean:.3g} beside std {std:.3g}: not centred", std, high
        )
    return Verdict(name, "linear", "pass", std=std, ratio=high)
