"""Looks around in the home of the user.

Expect: blocked: list
"""

# ruff: noqa
import json
import os
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

os.listdir(TOLD["home"])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
