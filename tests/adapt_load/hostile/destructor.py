"""Acts when the model is thrown away.

Expect: blocked: write to
"""

# ruff: noqa
import json
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())


class Bomb:
    def __del__(self):
        open(TOLD["outside"] + "/canary", "w")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.bomb = Bomb()
