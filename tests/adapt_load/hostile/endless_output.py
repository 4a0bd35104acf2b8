"""Prints without end.

Expect: error: did not finish
"""

# ruff: noqa

from torch import nn

while True:
    print("x" * 10_000)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
