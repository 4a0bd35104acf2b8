"""Writes into the shared temporary folder.

Expect: blocked: write to /tmp
"""

# ruff: noqa

from torch import nn

open("/tmp/torchstone-hostile", "w").write("here")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
