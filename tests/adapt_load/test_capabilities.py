"""The capability report sees the plain uses with their lines, and never runs what it reads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from torchstone.adapt.capability import KINDS, read_capabilities

HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.py"))


@pytest.mark.parametrize(
    ("source", "kind", "what", "line"),
    [
        ("import os\nos.system('x')", "process", "os.system", 2),
        ("from os import system as s\ns('x')", "process", "os.system", 2),
        ("import subprocess as sp\nsp.run([])", "process", "subprocess.run", 2),
        ("import socket", "network", "import socket", 1),
        ("from urllib.request import urlopen", "network", "import urllib.request", 1),
        ("open('x')", "files", "open", 1),
        ("def f():\n    import ctypes", "native code", "import ctypes", 2),
        ("exec('1')", "dynamic code", "exec", 1),
        ("import os\ngetattr(os, 'sys' + 'tem')", "dynamic code", "getattr by a computed name", 2),
        ("import os\nos.environ['X']", "environment", "os.environ", 2),
        ("import torch\ntorch.load('x')", "dynamic code", "torch.load", 2),
        ("().__class__.__base__.__subclasses__()", "dynamic code", ".__subclasses__", 1),
    ],
)
def test_a_use_is_found_with_its_line(source: str, kind: str, what: str, line: int):
    found = read_capabilities(source)
    assert (what, line) in {(use.what, use.line) for use in found.uses if use.kind == kind}


def test_an_ordinary_model_shows_nothing():
    found = read_capabilities(
        "import math\nimport torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def forward(self, x):\n        self.eval(); open_gate = x\n"
        "        return torch.compile(x)\n"
    )
    assert not found.uses
    assert found.imports == ("math", "torch")
    assert len(found.lines()) == 1 + len(KINDS)


@pytest.mark.parametrize("source", ["def f(:", "\0", "(" * 5000])
def test_what_cannot_be_read_is_said(source: str):
    assert "cannot be read" in read_capabilities(source).lines()[0]


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_what_is_blocked_at_run_time_was_announced(path: Path):
    expected = (ast.get_docstring(ast.parse(path.read_text())) or "").rpartition("Expect: ")[2]
    if expected.startswith("blocked") and "forge" not in expected:
        assert read_capabilities(path).uses
