"""Prints an answer of its own and leaves.

Expect: error: without an answer
"""

# ruff: noqa
import os
import sys

from torch import nn

print('{"result": {"verdict": "pass"}}')
sys.stdout.flush()
os._exit(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
