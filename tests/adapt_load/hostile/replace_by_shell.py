"""Replaces itself by a shell.

Expect: blocked: replace itself
"""

# ruff: noqa
import json
import os
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

os.execv("/bin/sh", ["sh", "-c", "touch " + TOLD["outside"] + "/canary"])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
