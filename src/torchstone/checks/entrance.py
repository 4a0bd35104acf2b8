"""Where an input becomes numbers: embeddings of token ids, or pixels and sound themselves.

    with entering(context, batch, lambda embeddings: embeddings + noise) as entrance:
        answer = context.main(batch)
    entrance.calls                          # 0 where no table was asked for the ids of the batch

Works on every model that looks its ids up, as `nn.Embedding`, `F.embedding` or `table[ids]`; none has to take
`inputs_embeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context

Change = Callable[[Tensor], Tensor]


class Entrance(TorchFunctionMode):
    """Changes what is looked up for exactly these ids."""

    def __init__(self, ids: Tensor | None, change: Change) -> None:
        super().__init__()
        self.ids, self.change = ids, change
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.ids is None or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        if func is functional.embedding:
            asked = args[0] if args else (kwargs or {}).get("input")
        elif func is Tensor.__getitem__:
            asked = args[1]
        else:
            return out
        if not self._is_ours(asked):
            return out
        self.calls += 1
        return self.change(out)

    def _is_ours(self, asked: Any) -> bool:
        ids = self.ids
        if ids is None or not isinstance(asked, Tensor) or asked.is_floating_point():
            return False
        if asked.numel() != ids.numel():
            return False
        given = (
            asked if asked.shape == ids.shape else asked.t() if asked.dim() == 2 else asked.reshape(ids.shape)
        )
        return given.shape == ids.shape and torch.equal(given.to(ids.dtype), ids)


@contextmanager
def entering(context: Context, batch: Batch, change: Change) -> Iterator[Entrance]:
    """`change` at the entrance of ids; inputs that are numbers already are to be changed in the batch."""
    ids = batch[context.primary] if context.takes_tokens else None
    with Entrance(ids, change) as entrance:
        yield entrance


def answer(context: Context, batch: Batch, change: Change, *, grad: bool = False) -> tuple[Tensor, int]:
    """(main tensor with the entrance changed, how often ids were looked up; 1 for pixels and sound)."""
    if not context.takes_tokens:
        changed = {**batch, context.primary: change(batch[context.primary])}
        return context.main(changed, grad=grad), 1
    with entering(context, batch, change) as entrance:
        main = context.main(batch, grad=grad)
    return main, entrance.calls
