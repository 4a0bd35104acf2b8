"""Sends control codes to the terminal in its error.

Expect: error: raised RuntimeError
"""

# ruff: noqa

from torch import nn

raise RuntimeError("\x1b[2J\x1b]0;owned\x07")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
