"""Leaves a file in shared memory.

Expect: blocked: write to /dev/shm
"""

# ruff: noqa

from torch import nn

open("/dev/shm/torchstone-hostile", "w").write("here")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
