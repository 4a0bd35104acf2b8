"""Reads where there is nothing, to crash.

Expect: blocked: reach native code
"""

# ruff: noqa
import ctypes

from torch import nn

ctypes.string_at(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
