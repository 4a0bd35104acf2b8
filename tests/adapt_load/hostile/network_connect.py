"""Sends a file to a server.

Expect: blocked: open a network socket
"""

# ruff: noqa
import json
import pathlib
import socket

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

socket.socket(socket.AF_INET).connect(("127.0.0.1", TOLD["port"]))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
