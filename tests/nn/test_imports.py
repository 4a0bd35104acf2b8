"""The rooms `nn` and `data` can be looked at without paying for torch."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

ROOMS = [
    "torchstone.nn",
    "torchstone.nn.config",
    "torchstone.nn.attention",
    "torchstone.nn.mlp",
    "torchstone.nn.vision",
    "torchstone.data",
    "torchstone.data.config",
    "torchstone.data.task",
]


def test_no_torch_or_numpy_at_import() -> None:
    code = f"import sys, {', '.join(ROOMS)}; assert not {{'torch', 'numpy'}} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ["torchstone.nn", "torchstone.data"])
def test_every_public_name_is_there(room: str) -> None:
    package = importlib.import_module(room)
    assert sorted(package.__all__) == dir(package)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        package.nothing_of_the_kind
