"""Waits for the exit of Python.

Expect: harmless
"""

# ruff: noqa
import atexit
import json
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

atexit.register(lambda: open(TOLD["outside"] + "/canary", "w"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
