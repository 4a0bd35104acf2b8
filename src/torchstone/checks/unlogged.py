"""Without torch's own pages on what it could not do: the check tells it in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unlogged(*names: str) -> Iterator[None]:
    """Loggers of these names keep all but what is critical to themselves for the length of the block."""
    logs = [logging.getLogger(each) for each in names]
    before = [each.level for each in logs]
    for each in logs:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(logs, before, strict=True):
            each.setLevel(level)
