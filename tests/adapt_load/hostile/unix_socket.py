"""Talks to a daemon of the host.

Expect: blocked: connect to
"""

# ruff: noqa
import json
import pathlib
import socket

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

socket.socket(socket.AF_UNIX).connect(TOLD["outside"] + "/daemon.sock")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
