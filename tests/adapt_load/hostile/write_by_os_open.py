"""Writes by the bare system call.

Expect: blocked: write to
"""

# ruff: noqa
import json
import os
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

os.write(os.open(TOLD["outside"] + "/canary", os.O_CREAT | os.O_WRONLY), b"here")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
