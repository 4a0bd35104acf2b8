"""Brings a library of its own.

Expect: blocked: load native code
"""

# ruff: noqa
import _ctypes
import importlib.machinery
import importlib.util
import json
import pathlib
import shutil

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())

mine = str(pathlib.Path(__file__).with_name("_ctypes.so"))
shutil.copy(_ctypes.__file__, mine)
loader = importlib.machinery.ExtensionFileLoader("_ctypes", mine)
importlib.util.module_from_spec(importlib.machinery.ModuleSpec("_ctypes", loader, origin=mine))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
