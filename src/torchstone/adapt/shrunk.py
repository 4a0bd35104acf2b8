"""Any adapted model without the units that pruning made zero."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from torchstone.adapt.binding import Binding
from torchstone.adapt.output import read_output
from torchstone.optim.pruning.shrink import shrink

if TYPE_CHECKING:
    from torchstone.adapt.load import LoadedModel
    from torchstone.optim.pruning.shrink import Shrunk

ROWS, LENGTH = 4, 16


def shrunk(model: LoadedModel) -> tuple[LoadedModel, Shrunk]:
    """The model with smaller tensors and the same answers, and what was taken out of it.

    Its configuration still tells the sizes before. A ModelError tells that it cannot be made smaller.
    """
    adapter = model.adapter
    batch = adapter.examples.batch(ROWS, LENGTH)

    def answer(module: nn.Module) -> Tensor:
        output = read_output(Binding(module, adapter.signature).call(batch), adapter.facts, adapter.task)
        return output.main

    small = shrink(model.module, answer)
    return replace(model, module=small.module), small
