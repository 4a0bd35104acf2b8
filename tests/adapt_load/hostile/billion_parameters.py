"""Asks for a billion parameters.

Expect: error: needs more memory
"""

# ruff: noqa

from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.wide = nn.Linear(40_000, 25_000)
