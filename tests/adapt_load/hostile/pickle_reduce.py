"""Unpickles a command.

Expect: blocked: run a shell command
"""

# ruff: noqa
import os
import pickle

from torch import nn


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/torchstone-hostile",)


pickle.loads(pickle.dumps(Payload()))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
