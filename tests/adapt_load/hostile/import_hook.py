"""Answers imports in place of Python.

Expect: blocked: start a program
"""

# ruff: noqa
import importlib.abc
import importlib.machinery
import json
import pathlib
import subprocess
import sys

from torch import nn

TOLD = json.loads(pathlib.Path(__file__).with_name("config.json").read_text())


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        subprocess.Popen(["touch", TOLD["outside"] + "/canary"])

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Finder())
import anything_at_all


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
