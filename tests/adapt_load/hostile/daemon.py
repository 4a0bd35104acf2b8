"""Starts a process that outlives it.

Expect: blocked: fork
"""

# ruff: noqa
import json
import os
import pathlib
import time

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

if os.fork() == 0:
    os.setsid()
    time.sleep(2)
    open(TOLD["outside"] + "/canary", "w")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
