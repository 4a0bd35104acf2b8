"""Leaves a link that leads out of its folder.

Expect: blocked: make a link
"""

# ruff: noqa
import json
import os
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

os.symlink(TOLD["outside"], "link")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
