"""Every law of the store is held on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tracking.postgres import KINDS, new_address, postgres

from torchstone.tracking.store import Store

__all__ = ["postgres"]


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store can be opened."""
    return new_address(request, request.param, tmp_path)


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    with Store.open(address) as store:
        yield store
