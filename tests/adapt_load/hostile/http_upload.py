"""Posts what it found.

Expect: blocked: look up|open a network socket
"""

# ruff: noqa
import json
import pathlib
import urllib.request

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

urllib.request.urlopen(f"http://127.0.0.1:{TOLD['port']}/", data=b"found")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
