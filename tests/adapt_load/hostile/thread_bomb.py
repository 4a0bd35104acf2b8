"""Starts threads without end.

Expect: error: can't start new thread
"""

# ruff: noqa
import threading

from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        wait = threading.Event()
        while True:
            threading.Thread(target=wait.wait, daemon=True).start()
