"""What a model gave back, in one form: the main tensor, logits, loss, hidden states, attentions, cache.

A model may return a tensor, a tuple (also loss first), a list, a dict, a dataclass or a `ModelOutput`.
`raw` is left untouched. Losses are not computed here: `loss` is what the model itself returned, or None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchstone._errors import ModelError
from torchstone.adapt.facts import ModelFacts

_MAIN_NAMES = (
    "logits",
    "last_hidden_state",
    "prediction_logits",
    "logits_per_image",
    "start_logits",
    "output",
)
"""Fields that hold the main tensor, in the order of preference."""


@dataclasses.dataclass(slots=True)
class Output:
    """One forward pass, read."""

    main: Tensor
    """The model's main tensor, batch first."""
    raw: Any
    main_name: str = "tensor"
    """Where `main` was found: a field's name, "tuple[1]", "tensor"."""
    logits: Tensor | None = None
    loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    past_key_values: Any = None


def read_output(raw: Any, facts: ModelFacts | None = None, task: Any = None) -> Output:
    """Read whatever `forward` returned. `facts` knows the vocabulary and the layout."""
    if isinstance(raw, Output):
        return raw
    if isinstance(raw, Tensor):
        output = Output(raw, raw)
        output.logits = raw if _is_logits(raw, facts) else None
    elif isinstance(raw, Mapping):
        output = _read_fields(raw, raw, facts)
    elif isinstance(raw, (tuple, list)) and not hasattr(raw, "_fields"):
        output = _read_sequence(raw, facts)
    else:
        output = _read_fields(_fields(raw), raw, facts)
    if facts is not None and facts.output_layout == "TBV":
        _batch_first(output)
    return output


def _fields(raw: Any) -> Mapping[str, Any]:
    if hasattr(raw, "_fields"):
        return {name: getattr(raw, name) for name in raw._fields}
    if dataclasses.is_dataclass(raw) and not hasattr(raw, "__dict__"):
        return {field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}
    if hasattr(raw, "__dict__"):
        return vars(raw)
    raise ModelError(
        f"the model returned {type(raw).__name__}, in which there is no tensor",
        why="forward must return a tensor, a tuple, a dict, a dataclass or a ModelOutput",
    )


def _read_fields(fields: Mapping[str, Any], raw: Any, facts: ModelFacts | None) -> Output:
    logits = _first_tensor(fields.get("logits"))
    if logits is not None:  # as most models answer: nothing to look for
        name, main = "logits", logits
    else:
        name = _main_field(fields)
        found = _first_tensor(fields[name])
        assert found is not None
        main = found
    if logits is None and name != "last_hidden_state" and _is_logits(main, facts):
        logits = main
    loss = fields.get("loss")
    past = fields.get("past_key_values")
    return Output(
        main,
        raw,
        name,
        logits if isinstance(logits, Tensor) else None,
        loss if isinstance(loss, Tensor) else None,
        fields.get("hidden_states"),
        fields.get("attentions"),
        past,
    )


def _main_field(fields: Mapping[str, Any]) -> str:
    for name in _MAIN_NAMES:
        if isinstance(fields.get(name), Tensor):
            return name
    for name, value in fields.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2:
            return name
    for name, value in fields.items():
        if isinstance(value, Tensor) and value.dim() >= 1:
            return name
    for name in (*_MAIN_NAMES, *fields):
        if _first_tensor(fields.get(name)) is not None:
            return name
    raise ModelError(
        "the model returned no tensor that could be its main one",
        why=f"fields: {', '.join(fields) or 'none'}",
        next="return the logits or the last hidden state under the name `logits` or `last_hidden_state`",
    )


def _first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first of several that stand under one name."""
    if isinstance(value, (tuple, list)):
        return next((each for each in value if isinstance(each, Tensor) and each.dim() >= 1), None)
    return value if isinstance(value, Tensor) and value.dim() >= 1 else None


def _read_sequence(raw: Any, facts: ModelFacts | None) -> Output:
    """Tuples and lists: a loss comes first or last as a scalar; a list of like tensors is hidden states."""
    items = list(raw)
    tensors = [(place, each) for place, each in enumerate(items) if isinstance(each, Tensor)]
    scalars = [each for _, each in tensors if each.dim() == 0 and each.is_floating_point()]
    full = [(place, each) for place, each in tensors if each.dim() >= 1]
    if not full:
        inner = next((each for each in items if isinstance(each, (Mapping, tuple, list))), None)
        if inner is None:
            raise ModelError(
                "the model returned a sequence without a tensor in it", why=f"{type(raw).__name__}"
            )
        return dataclasses.replace(read_output(inner, facts), raw=raw)
    place, main = _main_of(full, facts, is_list=isinstance(raw, list))
    output = Output(main, raw, f"{type(raw).__name__}[{place}]", loss=scalars[0] if scalars else None)
    output.logits = main if _is_logits(main, facts) else None
    if isinstance(raw, list) and len(full) == len(items) and len({each.shape for _, each in full}) == 1:
        output.hidden_states = tuple(each for _, each in full)
    for each in items:
        if isinstance(each, tuple) and each and all(isinstance(part, Tensor) for part in each):
            if each[0].shape == main.shape or each[0].dim() == 3:
                output.hidden_states = each
            elif each[0].dim() == 4:
                output.attentions = each
    return output


def _main_of(full: list[tuple[int, Tensor]], facts: ModelFacts | None, is_list: bool) -> tuple[int, Tensor]:
    for place, each in full:
        if _is_logits(each, facts):
            return place, each
    # A list of hidden states ends with the last layer's; a tuple begins with the main result.
    same = len({each.shape for _, each in full}) == 1
    if is_list and same:
        return full[-1]
    floating = [(place, each) for place, each in full if each.is_floating_point()]
    return (floating or full)[0]


def _is_logits(tensor: Tensor, facts: ModelFacts | None) -> bool:
    if facts is None or tensor.dim() < 2:
        return False
    return tensor.shape[-1] in facts.output_sizes


def _batch_first(output: Output) -> None:
    turned = output.main.transpose(0, 1)
    if output.logits is output.main:
        output.logits = turned
    output.main = turned


def finite(output: Output) -> bool:
    """Whether the main tensor holds numbers only."""
    return bool(torch.isfinite(output.main).all())
