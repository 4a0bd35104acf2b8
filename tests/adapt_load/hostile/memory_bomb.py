"""Takes memory without end.

Expect: error: needs more memory|MemoryError
"""

# ruff: noqa

from torch import nn

hoard = []
while True:
    hoard.append(bytearray(50_000_000))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
