"""A visual builder's export whose `forward` asks for results of its own graph: complete it.

Thin first form: an export that needs intermediates is refused until the graph is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from torchstone._errors import ModelError
from torchstone.adapt.signature import Signature


class GraphPlan:
    def intermediates(self, given: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def run(self, given: Mapping[str, Any]) -> Any:
        raise NotImplementedError


def plan_graph(module: nn.Module, signature: Signature) -> GraphPlan | None:
    if not signature.intermediates:
        return None
    raise ModelError(f"parameter {signature.intermediates[0].name} cannot be produced")
