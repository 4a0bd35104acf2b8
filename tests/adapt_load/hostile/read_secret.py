"""Reads a file of the user.

Expect: blocked: read
"""

# ruff: noqa
import json
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

raise RuntimeError(open(TOLD["outside"] + "/secret.txt").read())


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
