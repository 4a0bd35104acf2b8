"""Fills the disk with many files in its own folder.

Expect: error: wrote more than
"""

# ruff: noqa
import itertools
import json
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

for number in itertools.count():
    pathlib.Path(__file__).with_name(f"junk{number}").write_bytes(bytes(4_000_000))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
