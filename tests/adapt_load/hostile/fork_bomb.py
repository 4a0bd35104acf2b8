"""Forks without end.

Expect: blocked: fork
"""

# ruff: noqa
import os

from torch import nn

while True:
    os.fork()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
