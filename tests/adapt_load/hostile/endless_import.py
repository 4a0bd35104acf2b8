"""Never finishes its import, asleep.

Expect: error: did not finish
"""

# ruff: noqa
import time

from torch import nn

time.sleep(10**6)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
