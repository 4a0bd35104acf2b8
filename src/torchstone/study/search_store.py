"""Optuna's tables in our own store: one file holds the runs and the search that led to them."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy import Connection, event

from torchstone.study.proposals import optuna_itself

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from torchstone.tracking.store import Store

PATIENCE_S = 60.0
"""That a writer waits for the others."""


def open_storage(store: Store) -> RDBStorage:
    """Optuna's storage at the store's address.

    In a SQLite file every transaction takes the write lock at its start, as ours do: one that begins by
    reading and then writes would fail at once when a trial has written in between, without any waiting.
    """
    optuna, address = optuna_itself(), store.address
    if store.folder is None:
        return optuna.storages.RDBStorage(address)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)

    storage: RDBStorage = optuna.storages.RDBStorage(
        f"sqlite:///{address}", engine_kwargs={"creator": connect}
    )
    event.listen(storage.engine, "begin", _begin)
    return storage


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
