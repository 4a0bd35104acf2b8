"""Reads the private key.

Expect: blocked: read
"""

# ruff: noqa
import json
import pathlib

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

pathlib.Path(TOLD["home"], ".ssh", "id_ed25519").read_text()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
