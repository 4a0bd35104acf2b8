"""Leaves at once with exit code 0.

Expect: error: without an answer
"""

# ruff: noqa
import os

from torch import nn

os._exit(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
