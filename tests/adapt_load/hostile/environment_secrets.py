"""Prints every variable of the environment.

Expect: error: it found
"""

# ruff: noqa
import os

from torch import nn

print(dict(os.environ))
raise RuntimeError(f"it found {sorted(os.environ.items())}")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
