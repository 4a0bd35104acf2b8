"""Leaves a thread that acts when nobody looks.

Expect: harmless
"""

# ruff: noqa
import json
import pathlib
import threading
import time

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())


def later():
    time.sleep(1)
    open(TOLD["outside"] + "/canary", "w")


threading.Thread(target=later).start()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
