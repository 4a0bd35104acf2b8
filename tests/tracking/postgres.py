"""A PostgreSQL server of the tests' own on the loopback, gone when they end.

PostgreSQL refuses to run as root, so there it is started as the user `postgres` or `nobody`. Its text is
sorted as in English, not by bytes, and it keeps nothing safe from a power cut.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

START_S = 60.0


class Postgres:
    """A running server with one database."""

    def __init__(self, programs: Path, base: Path, user: str | None) -> None:
        self._programs, self._base, self._user = programs, base, user
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._numbers = count(1)
        locale = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        self._run("initdb", "-D", base / "data", "-U", "torchstone", "--auth=trust", "--no-sync", *locale)
        self.start()

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "",
            "fsync": "off", "shared_buffers": "16MB", "max_connections": 60,
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [self._programs / "postgres", "-D", self._base / "data", *options]
        with (self._base / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user())
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=START_S)

    def log(self) -> str:
        return (self._base / "server.log").read_text(errors="replace")[-2000:]

    def address(self, schema: str | None = None) -> str:
        """Of the database, or of one schema in it."""
        path = f"?options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql://torchstone@127.0.0.1:{self.port}/postgres{path}"

    def new_schema(self) -> str:
        """The address of an empty place."""
        name = f"place{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.address(name)

    def execute(self, statement: str) -> list[Any]:
        import psycopg

        with psycopg.connect(self.address(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _answers(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_user())
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> dict[str, Any]:
        there: dict[str, Any] = {"cwd": self._base}
        return there | (
            {"user": self._user, "group": self._group(), "extra_groups": []} if self._user else {}
        )

    def _group(self) -> int:
        return pwd.getpwnam(self._user or "").pw_gid


def programs_of_postgres() -> Path | None:
    """Where `initdb` and `postgres` lie: Debian keeps them out of the PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return newest[-1].parent if newest else None


def somebody_else() -> str | None:
    """Who runs the server: None for ourselves."""
    if os.getuid() != 0:
        return None
    known = {each.pw_name for each in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = programs_of_postgres()
    if sys.platform != "linux" or programs is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    pytest.importorskip("psycopg", reason="pip install 'torchstone[postgres]'")
    # Not in pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="torchstone-postgres-", dir="/tmp") as folder:
        user = somebody_else()
        if user is not None:
            shutil.chown(folder, user)
        server = Postgres(programs, Path(folder), user)
        yield server
        server.stop()


KINDS = ["sqlite", "postgresql"]


def new_address(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """Where a store can be made: in a file, or in a schema of its own."""
    if kind == "sqlite":
        return str(folder / "store.db")
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_schema()
