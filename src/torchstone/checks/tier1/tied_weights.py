"""tied-weights: input and output embedding share one tensor exactly where the model says so, and keep
sharing it.

The two are found by use: the table that the ids index, and the map that makes the scores over the same
vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.adapt.stack import traced
from torchstone.checks.registry import CHECKS, Check

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

_WISH = (
    "tie_word_embeddings",
    "tie_embeddings",
    "tie_weights",
    "weight_tying",
    "tied_embeddings",
    "share_embeddings",
)


def tied_weights(context: Context) -> CheckResult:
    found = embedding_and_head(context)
    wish = tie_wish(context)
    if found is None:
        return context.skipped("no pair of a token table and a map to scores over the same vocabulary")
    (table_name, table), (head_name, head) = found
    shared = table is head or _one_memory(table, head)
    details = {"table": table_name, "head": head_name, "shared": shared, "config": wish}
    fields: dict[str, Any] = {
        "measured": float(shared),
        "unit": "shared",
        "module": head_name,
        "details": details,
    }
    if shared and table is not head:
        return context.failed(
            f"{table_name} and {head_name} share memory, but are two parameters: an optimizer steps twice",
            hint="assign the one parameter to both: head.weight = embedding.weight",
            **fields,
        )
    if shared:
        return _survives(context, table_name, head_name, fields, wish)
    equal = torch.equal(table.detach(), head.detach()) and bool((table.detach() != 0).any())
    if wish:
        return context.failed(
            f"the configuration ties the embeddings, but {table_name} and {head_name} are two tensors"
            + (" with a copied value" if equal else ""),
            limit=1.0,
            hint="assign the one parameter to both: head.weight = embedding.weight",
            **fields,
        )
    if equal:
        return context.failed(
            f"{head_name} holds a copy of {table_name}: equal now, apart after the first step",
            limit=1.0,
            hint="assign the parameter itself, not its clone: head.weight = embedding.weight",
            **fields,
        )
    return context.passed(f"{table_name} and {head_name} are two tensors, as the model says", **fields)


def _survives(
    context: Context, table_name: str, head_name: str, fields: dict[str, Any], wish: bool | None
) -> CheckResult:
    """A tie must hold after a cast to another type, which replaces the data of every parameter."""
    context.module._apply(lambda each: each.clone())  # type: ignore[no-untyped-call]
    again = embedding_and_head(context)
    context.kept.restore()
    if again is None or not _one_memory(again[0][1], again[1][1]):
        return context.failed(
            f"{table_name} and {head_name} come apart when the model is moved or cast",
            limit=1.0,
            hint="tie the parameter, not its data: head.weight = embedding.weight",
            **fields,
        )
    if wish is False:
        return context.warned(
            f"{table_name} and {head_name} share one tensor although the configuration says they "
            "are not tied",
            **fields,
        )
    return context.passed(f"{table_name} and {head_name} share one tensor", **fields)


def tie_wish(context: Context) -> bool | None:
    """What the configuration says about ties; None where it says nothing."""
    sources: list[Any] = [context.config, getattr(context.adapter.base, "config", None), context.facts.config]
    for source in sources:
        for name in _WISH:
            value = source.get(name) if hasattr(source, "get") else getattr(source, name, None)
            if isinstance(value, bool):
                return value
    return None


def embedding_and_head(context: Context) -> tuple[tuple[str, nn.Parameter], tuple[str, nn.Parameter]] | None:
    """The table that the main ids go through, and the map whose answer is the main output."""
    batch = context.batch(1, length=min(5, context.plan.length)) if context.takes_tokens else None
    if batch is None:
        return None
    modules = dict(context.module.named_modules())
    maps = {name: each for name, each in modules.items() if _matrix(each) is not None}
    with traced(maps, keep=lambda state: state.detach()) as trace:
        main = context.forward(batch).main
    tables = [name for name in dict.fromkeys(trace.calls) if isinstance(modules[name], nn.Embedding)]
    head = next(
        (name for name in reversed(trace.calls) if _is_last(trace.last(name), main, modules[name])), None
    )
    scores = _matrix(modules[head]) if head is not None else None
    if head is None or scores is None:
        return None
    fitting = [(name, weight) for name in tables if (weight := _matrix(modules[name])) is not None]
    fitting = [(name, weight) for name, weight in fitting if weight.shape == scores.shape]
    if not fitting:
        return None
    # Encoder and decoder may have tables of their own; the last one used is the head's partner.
    shared = [(name, weight) for name, weight in fitting if _one_memory(weight, scores)]
    name, weight = (shared or fitting)[-1]
    return (f"{name}.weight", weight), (f"{head}.weight", scores)


def _one_memory(first: Tensor, second: Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def _matrix(module: nn.Module) -> nn.Parameter | None:
    weight = module._parameters.get("weight")
    return weight if weight is not None and weight.dim() == 2 else None


def _is_last(state: Tensor | None, main: Tensor, module: nn.Module) -> bool:
    weight = _matrix(module)
    if state is None or weight is None or isinstance(module, nn.Embedding):
        return False
    return state.shape[-1] == weight.shape[0] == main.shape[-1] and state.numel() == main.numel()


CHECKS.add(
    Check(
        "tied-weights",
        tier=1,
        title="tied embeddings",
        proves="Input and output embedding share one tensor exactly where the configuration says so.",
        run=tied_weights,
    )
)
