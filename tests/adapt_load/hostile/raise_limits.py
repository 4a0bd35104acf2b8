"""Lifts its own limits.

Expect: error: exceed|not allowed
"""

# ruff: noqa
import resource

from torch import nn

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
