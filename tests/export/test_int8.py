"""Dynamic int8: close to the layer it stands for, exact where whole numbers suffice, refused beyond 5 %."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchstone.export.int8 import Int8Linear, quantised
from torchstone.export.standalone.verify import judge


@pytest.mark.parametrize("shape", [(16,), (1, 16), (3, 16), (2, 5, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_close_to_its_original(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        wanted, found = layer(x), Int8Linear(layer)(x)
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < 0.02


def test_whole_numbers_are_exact_and_rows_do_not_disturb_each_other() -> None:
    layer = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, -3, 0, 5], [127, 1, 1, 1], [0, 0, 0, 0]]))
    rows = torch.tensor([[127.0, 1, 2, 3], [127e6, 1e6, 2e6, 3e6], [0, 0, 0, 0]])
    found = Int8Linear(layer)(rows)
    assert torch.allclose(found, rows @ layer.weight.T, rtol=1e-6)
    assert torch.equal(found[:1], Int8Linear(layer)(rows[:1])), "a large row beside changes nothing"


def test_every_linear_layer_is_replaced_but_those_that_are_never_called() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.MultiheadAttention(4, 2))
    twin, count = quantised(model)
    assert count == 2
    assert [isinstance(each, Int8Linear) for each in (twin[0], twin[1][0])] == [True, True]
    assert isinstance(model[0], nn.Linear), "the original stays"


@pytest.mark.parametrize(
    ("squares", "top", "status"),
    [
        ([0.0024, 1.0], [99, 100], "pass"),
        ([0.0026, 1.0], [99, 100], "fail"),
        ([0.0024, 1.0], [97, 100], "fail"),
    ],
)
def test_int8_holds_within_five_percent_and_ninety_eight(squares: Any, top: Any, status: str) -> None:
    case = {"id": "a", "what": "a", "max_abs": 9.0, "beyond": 9.0, "squares": squares, "top": top}
    assert judge([case], "int8")["status"] == status
    assert judge([case], "float32")["status"] == "fail", "what int8 may, float32 may not"
    assert np.isclose(judge([case], "int8")["relative_l2"], squares[0] ** 0.5)
