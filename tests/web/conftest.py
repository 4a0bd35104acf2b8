"""Servers on loopback. Most run in a thread of the test's process, where a test can hold the model still."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from export.conftest import made_once  # noqa: F401

from torchstone.export.standalone.inference import Predictor
from torchstone.web.serving.config import ServeConfig
from torchstone.web.serving.server import Server, make_server


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def events(self) -> list[Any]:
        """Objects of a stream; `[DONE]` as text."""
        told = [each.removeprefix("data: ") for each in self.body.decode().split("\n\n") if each]
        return [each if each == "[DONE]" else json.loads(each) for each in told]


class Client:
    """Plain requests, a connection each."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address
        self.host, self.port = urlsplit(address).hostname, urlsplit(address).port
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def connect(self) -> http.client.HTTPConnection:
        assert self.host
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def __call__(self, method: str, path: str, asked: Any = None, **headers: str) -> Answer:
        with self.begun(method, path, asked, **headers) as answer:
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read())

    @contextmanager
    def begun(
        self, method: str, path: str, asked: Any = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer whose head is there; leaving closes the connection."""
        connection = self.connect()
        try:
            body = json.dumps(asked).encode() if asked is not None and not isinstance(asked, bytes) else asked
            connection.request(
                method, path, body, {"Content-Type": "application/json", **self.headers, **headers}
            )
            yield connection.getresponse()
        finally:
            connection.close()

    @contextmanager
    def together(self, asked: list[tuple[str, Any]]) -> Iterator[list[Answer]]:
        """POST all at once; the list has the answers, in order, when the block is left."""
        answers: list[Answer] = []
        with ThreadPoolExecutor(len(asked)) as crowd:
            futures = [crowd.submit(self, "POST", path, value) for path, value in asked]
            yield answers
            answers += [each.result() for each in futures]


class Held(Predictor):
    """A predictor whose passes wait until `go` is set; it counts them."""

    def __init__(self, folder: Path, format: str = "onnx") -> None:
        super().__init__(folder, format)
        self.go, self.asleep = threading.Event(), threading.Event()
        self.go.set()
        self.sizes: list[int] = []
        inner = self.run

        def run(batch: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
            self.sizes.append(len(next(iter(batch.values()))))
            self.asleep.set()
            assert self.go.wait(60)
            return inner(batch)

        self.run = run  # type: ignore[assignment]


@dataclass
class Running:
    client: Client
    server: Server
    predictor: Any


@contextmanager
def serving(predictor: Any, token: str | None = None, **limits: Any) -> Iterator[Running]:
    """A server in a thread, stopped at the end."""
    started: list[str] = []
    ready = threading.Event()

    def announce(address: str) -> None:
        started.append(address)
        ready.set()

    server, listening = make_server(predictor, ServeConfig(port=0, **limits), token, announce)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        assert ready.wait(60)
        yield Running(Client(started[0], token), server, predictor)
    finally:
        if hasattr(predictor, "go"):
            predictor.go.set()
        server.should_exit = True
        thread.join(60)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture
def held(made_once: Path) -> Held:  # noqa: F811
    return Held(made_once)


def until(what: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that another thread is about to do."""
    done = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if what():
            return
        done.wait(0.01)
    raise AssertionError("it did not come about")
