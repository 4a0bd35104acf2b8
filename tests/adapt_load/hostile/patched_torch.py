"""Changes torch so that everything lies.

Expect: harmless
"""

# ruff: noqa
import builtins
import torch

from torch import nn

torch.save = lambda *_, **__: None
nn.Module.__call__ = lambda *_, **__: torch.zeros(1)
torch.allclose = lambda *_: True
builtins.len = lambda _: 1


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
