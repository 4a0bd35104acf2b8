"""Two optimizers as one: hidden matrices in a way of their own, everything else by AdamW.

    class Muon(MatrixSplit):
        matrix_class = torch.optim.Muon

Both halves are torch optimizers that see the groups and the state of the whole, so that there is one list of
groups for the schedule, one state for the checkpoint, and nothing to keep in step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from torchstone.optim.bare_step import bare_step
from torchstone.optim.groups import MATRIX

Groups = list[dict[str, Any]]


class MatrixSplit(torch.optim.Optimizer):
    """Groups marked `MATRIX` are updated by `matrix_class`, the others by `torch.optim.AdamW`."""

    matrix_class: ClassVar[type[torch.optim.Optimizer]]

    def __init__(self, groups: Groups, *, matrix: dict[str, Any], rest: dict[str, Any]) -> None:
        """`matrix` and `rest`: keyword arguments of the two classes."""
        # Each class checks its arguments and fills in its defaults; the groups are then the whole's.
        for optimizer_class, arguments, is_matrix in (
            (self.matrix_class, matrix, True),
            (torch.optim.AdamW, rest, False),
        ):
            mine = [group for group in groups if group[MATRIX] is is_matrix]
            if mine:
                optimizer_class(mine, **arguments)
        super().__init__(groups, {})
        self._link()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._link()

    def _link(self) -> None:
        """Let both halves see the groups and the state as they are now."""
        self._halves = [
            _over(optimizer_class, self.state, [each for each in self.param_groups if each[MATRIX] is marked])
            for optimizer_class, marked in ((self.matrix_class, True), (torch.optim.AdamW, False))
        ]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for half in self._halves:
            bare_step(half, type(half))
        return loss


def _over(optimizer_class: type[torch.optim.Optimizer], state: Any, groups: Groups) -> torch.optim.Optimizer:
    """An optimizer over groups and state that belong to another."""
    half = optimizer_class.__new__(optimizer_class)
    half.__setstate__({"defaults": {}, "state": state, "param_groups": groups})
    return half
