"""Starts a program in the constructor.

Expect: blocked: start a program
"""

# ruff: noqa
import json
import pathlib
import subprocess

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        subprocess.run(["touch", TOLD["outside"] + "/canary"])
