"""Runs a shell command while the class is read.

Expect: blocked: run a shell command
"""

# ruff: noqa
import json
import os
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())


class Helper(nn.Module):
    os.system("touch " + TOLD["outside"] + "/canary")

    def forward(self, model: "Model"): ...


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
