"""Deletes what is not its own.

Expect: blocked: remove|read|list
"""

# ruff: noqa
import json
import pathlib
import shutil

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

shutil.rmtree(TOLD["outside"], ignore_errors=True)
pathlib.Path(TOLD["outside"], "secret.txt").unlink()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
