"""Never finishes its constructor.

Expect: error: did not finish
"""

# ruff: noqa

from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        while True:
            pass
