"""Forks, and hides that it was stopped.

Expect: blocked: fork
"""

# ruff: noqa
import os

from torch import nn

try:
    os.fork()
except BaseException:
    pass


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
