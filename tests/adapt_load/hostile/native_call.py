"""Calls the C library.

Expect: blocked: reach native code
"""

# ruff: noqa
import ctypes

from torch import nn

ctypes.CDLL(None).system(b"touch /tmp/torchstone-hostile")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
