"""Moves a file away.

Expect: blocked: move
"""

# ruff: noqa
import json
import os
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

os.rename(TOLD["outside"] + "/secret.txt", "mine.txt")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
