"""Loads weights that are a program.

Expect: blocked: run a shell command
"""

# ruff: noqa
import os
import pathlib

import torch

from torch import nn


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/torchstone-hostile",)


mine = pathlib.Path(__file__).with_name("weights.pt")
torch.save(Payload(), mine)
torch.load(mine, weights_only=False)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
