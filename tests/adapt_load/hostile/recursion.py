"""Recurses until the stack is gone.

Expect: error: crashed its process|memory|did not finish
"""

# ruff: noqa
import sys

from torch import nn

sys.setrecursionlimit(10**9)


def down():
    return down() + 1


down()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
