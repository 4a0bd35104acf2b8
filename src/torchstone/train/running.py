"""Which module is running: names from the outside in, kept by hooks that go when the block ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def running(module: nn.Module) -> Iterator[list[str]]:
    """A list whose last entry is the innermost module that runs, by its dotted name; empty outside of all.

    The whole module's own name is the empty string and is left out.
    """
    path: list[str] = []
    handles = []
    for name, each in module.named_modules():
        if name:
            handles.append(each.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
            handles.append(each.register_forward_hook(lambda *_: _left(path), always_call=True))
    try:
        yield path
    finally:
        for handle in handles:
            handle.remove()


def _left(path: list[str]) -> None:
    path.pop()
