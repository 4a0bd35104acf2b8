"""Kills every process it may.

Expect: blocked: send a signal
"""

# ruff: noqa
import os
import signal

from torch import nn

os.kill(-1, signal.SIGKILL)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
