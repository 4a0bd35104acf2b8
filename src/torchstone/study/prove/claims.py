"""What a step may claim, and how a claim is written. Nothing is measured here, and no torch is imported.

claims = { parameters = "+98304", flops = ">0", kv_bytes_per_token = "x0.083", output = "differs",
           gradient = ["attention.alpha"], neutral = { "model.attention.alpha" = 0.0 } }
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torchstone._registry import Registry

CHANGE = re.compile(r"([+-])([0-9][0-9_]*)|(>=|<=|>|<)\s*0|=\s*([0-9][0-9_]*)|x\s*([0-9]+(?:\.[0-9]+)?)")
AMOUNTS = ("parameters", "flops", "kv_bytes_per_token")
"""Claims about the full model's size."""
FACETS = ("init", "optimizer", "schedule", "data")
"""What a step leaves alone unless its `set` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ClaimKind:
    """One thing that can be claimed; `fault(value)` says what is wrong with how it is written, or nothing."""

    name: str
    summary: str
    fault: Callable[[Any], str]
    needs_parent: bool = True


def mistaken_claims(claims: Mapping[str, Any], *, has_parent: bool) -> Iterator[tuple[str, str, str]]:
    """(claim, what is wrong with it, why) for each claim that cannot be understood."""
    from torchstone._registry import suggest

    for name, value in claims.items():
        if name not in CLAIMS:
            yield (
                name,
                f"there is no claim {name!r}",
                suggest(name, CLAIMS.names()) or f"claims: {', '.join(CLAIMS.names())}",
            )
            continue
        kind = CLAIMS.get(name)
        if fault := kind.fault(value):
            yield name, f"{name} = {value!r} cannot be measured", fault
        elif not has_parent and kind.needs_parent and not is_absolute(value):
            yield (
                name,
                f"{name} = {value!r} compares with a parent, and there is none",
                'write "=N" for a plain value',
            )


def is_absolute(value: Any) -> bool:
    """Whether a change expression speaks of the step alone."""
    return isinstance(value, str) and value.startswith("=")


def holds(expected: str, value: int | float, parent: int | float | None) -> bool:
    """Whether `value` fulfils a change expression; `parent` is the same quantity of the parent.

    >>> holds("+12", 112, 100), holds("x0.50", 50, 100), holds("=112", 112, None), holds("<0", 101, 100)
    (True, True, True, False)
    """
    found = CHANGE.fullmatch(expected.strip())
    assert found is not None, expected
    sign, amount, order, absolute, ratio = found.groups()
    if absolute is not None:
        return value == int(absolute)
    assert parent is not None, expected
    change = value - parent
    if ratio is not None:
        # True to the last digit that was written.
        digits = len(ratio.partition(".")[2])
        return parent != 0 and abs(value / parent - float(ratio)) <= 0.5 * 10**-digits + 1e-12
    if order is not None:
        return {">": change > 0, "<": change < 0, ">=": change >= 0, "<=": change <= 0}[order]
    return change == int(amount) * (1 if sign == "+" else -1)


def at_another_size(claims: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of claims about a model when its sizes are others: directions and ratios, no amounts.

    >>> at_another_size({"parameters": "+288", "flops": "-5", "kv_bytes_per_token": "+0", "output": "equal"})
    {'parameters': '>0', 'flops': '<0', 'kv_bytes_per_token': '+0', 'output': 'equal'}
    """
    left = {name: _direction(value) if name in AMOUNTS else value for name, value in claims.items()}
    return {name: value for name, value in left.items() if value is not None}


def _direction(expected: str) -> str | None:
    found = CHANGE.fullmatch(expected.strip())
    assert found is not None, expected
    sign, amount, _, absolute, _ = found.groups()
    if absolute is not None:
        return None
    if sign is None or int(amount) == 0:
        return expected
    return ">0" if sign == "+" else "<0"


# --- how claims are written ---------------------------------------------------------------------


def _change(value: Any) -> str:
    good = isinstance(value, str) and CHANGE.fullmatch(value.strip()) is not None
    return (
        ""
        if good
        else 'write "+0", "+123", "-123", ">0", "<0", "x0.50" (times), or "=123" (the value itself)'
    )


def _verdict(value: Any) -> str:
    return "" if value in ("differs", "equal") else 'write "differs" or "equal"'


def _names(value: Any) -> str:
    good = isinstance(value, list) and value and all(isinstance(each, str) and each for each in value)
    return "" if good else 'write a list of names: ["attention.alpha"]'


def _facets(value: Any) -> str:
    good = not _names(value) and set(value) <= set(FACETS)
    return "" if good else f"write a list of some of: {', '.join(FACETS)}"


def _share(value: Any) -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
    return "" if good else "write a share from 0 to 1, as 0.5"


def _settings(value: Any) -> str:
    good = isinstance(value, dict) and value
    return "" if good else 'write { "model.attention.alpha" = 0.0 }'


CLAIMS: Registry[ClaimKind] = Registry("claim")

for _name, _what in (
    ("parameters", "trainable and fixed parameters of the full model, tied ones once"),
    ("flops", "floating point operations of one forward pass of the full model over one sequence"),
    ("kv_bytes_per_token", "bytes that the cache of the full model grows by with each token of a sequence"),
    ("tokens_per_update", "tokens that one optimizer step sees; +0 unless claimed otherwise"),
    ("updates", "optimizer steps of a run; +0 unless claimed otherwise"),
):
    CLAIMS.add(ClaimKind(name=_name, summary=_what, fault=_change))
for _name, _what in (
    ("output", "the model's output, where all that both have is the same and nothing is zero"),
    ("start", "the output of the model as it begins, with the parent's weights where both have them"),
    ("update", "the weights after a few optimizer steps from the same weights on the same tokens"),
):
    CLAIMS.add(ClaimKind(name=_name, summary=_what, fault=_verdict))
CLAIMS.add(
    ClaimKind(
        name="gradient",
        summary="parameters (by the end of their name) that learn, or knobs that the loss depends on",
        fault=_names,
        needs_parent=False,
    )
)
CLAIMS.add(
    ClaimKind(
        name="no_gradient",
        summary="parameters that are meant to get none; all others must",
        fault=_names,
        needs_parent=False,
    )
)
CLAIMS.add(
    ClaimKind(
        name="neutral",
        summary="with these knobs the output equals the parent's, where all that both have is the same",
        fault=_settings,
    )
)
CLAIMS.add(
    ClaimKind(
        name="changed",
        summary=f"what differs from the parent ({', '.join(FACETS)}), although `set` does not touch it",
        fault=_facets,
    )
)
CLAIMS.add(
    ClaimKind(
        name="unchanged",
        summary=f"what stays as the parent has it ({', '.join(FACETS)}), although `set` touches it",
        fault=_facets,
    )
)
CLAIMS.add(
    ClaimKind(
        name="sparsity",
        summary="share of zeros among the pruned weights at the end of a short run",
        fault=_share,
        needs_parent=False,
    )
)
CLAIMS.add(
    ClaimKind(
        name="optimizer_state",
        summary="entries of the optimizer's state that exist and change from step to step",
        fault=_names,
        needs_parent=False,
    )
)
