"""Writes into the home of the user.

Expect: blocked: write to
"""

# ruff: noqa
import json
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

open(TOLD["home"] + "/.torchstone-hostile", "w").write("here")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
