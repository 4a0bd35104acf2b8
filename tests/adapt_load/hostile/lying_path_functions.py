"""Makes path functions lie, then writes outside.

Expect: blocked: write to
"""

# ruff: noqa
import json
import os
import pathlib
import posixpath

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

posixpath.realpath = os.path.realpath = lambda path, **_: "/dev/null"
open(TOLD["outside"] + "/canary", "w").write("here")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
