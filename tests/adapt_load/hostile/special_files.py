"""Leaves devices and pipes behind for whoever reads its folder.

Expect: harmless
"""

# ruff: noqa
import os
import pathlib

from torch import nn

os.mkfifo("pipe")
pathlib.Path("locked").mkdir(mode=0)
pathlib.Path("plain").touch()
os.chmod("plain", 0o4777)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
