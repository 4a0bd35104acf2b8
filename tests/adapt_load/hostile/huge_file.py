"""Writes one file without end.

Expect: error: File too large
"""

# ruff: noqa
import json
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

with pathlib.Path(__file__).with_name("huge").open("wb") as file:
    while True:
        file.write(bytes(4_000_000))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
