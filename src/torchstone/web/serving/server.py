"""Verify a bundle, open it, listen, and on SIGTERM end what was begun.

    serve(Path("bundles/first"), ServeConfig(port=8000))

The first SIGTERM or Ctrl-C drains: `/ready` says 503 and so does new work, requests under way have `drain_s`
seconds to end. The second cuts them off.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from torchstone.export.standalone.inference import Predictor
from torchstone.export.standalone.runtimes import CannotRun, read_manifest
from torchstone.export.standalone.verify import verify
from torchstone.web.serving.app import build
from torchstone.web.serving.config import PREFERRED, TOKEN_VARIABLE, ServeConfig
from torchstone.web.serving.gate import Gate

log = logging.getLogger("torchstone.serving")


class NotServed(Exception):
    """This bundle is not served; the message says why."""


def open_verified(folder: Path, config: ServeConfig) -> Predictor:
    """The bundle's format, after its hashes and its proof. Errors: NotServed, CannotRun."""
    name = config.format or chosen_format(folder)
    kept = "safetensors" if name == "torch" else name
    found = verify(folder, [kept])
    if found["verdict"] != "pass":
        told = found["problems"] + [f"{each['name']}: {each['why']}" for each in found["formats"]]
        raise NotServed(f"{folder} does not hold: {'; '.join(map(str, told)) or f'it has no format {name}'}")
    return Predictor(folder, name, config.device)


def chosen_format(folder: Path) -> str:
    try:
        formats = read_manifest(folder)["formats"]
    except (OSError, ValueError, KeyError) as problem:
        raise NotServed(f"{folder} is no bundle ({problem})") from None
    known = [each for each in PREFERRED if each in formats] or list(formats)
    if not known:
        raise NotServed(f"{folder} has no format")
    return known[0]


def serve(
    folder: Path,
    config: ServeConfig,
    token: str | None = None,
    announce: Callable[[str, Predictor], None] = lambda address, predictor: None,
) -> int:
    """Serve until a signal; its number, or 0 where the server did not start or requests had to be cut off.

    `announce` is called with the address once connections are taken. Errors: NotServed, CannotRun.
    """
    if not config.is_local and not token:
        raise NotServed(
            f"{config.host} can be reached from elsewhere, so a token is needed: set {TOKEN_VARIABLE}"
        )
    predictor = open_verified(folder, config)
    server, listening = make_server(predictor, config, token, lambda address: announce(address, predictor))
    server.run([listening])
    return 0 if server.cut else server.signal


def make_server(
    predictor: Predictor, config: ServeConfig, token: str | None, announce: Callable[[str], None]
) -> tuple[Server, socket.socket]:
    """A server and where it will listen; `server.run([listening])` blocks."""
    gate = build(predictor, config, token)
    listening = _listen(config)
    settings = uvicorn.Config(
        gate,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=1,  # what was begun has had `drain_s` by then
        # Connections without a request hold no place under way; far above, they are refused with 503.
        limit_concurrency=config.max_concurrent + 1024,
    )
    return Server(settings, gate, config.drain_s, lambda: announce(_address(listening))), listening


class Server(uvicorn.Server):
    """uvicorn, which drains before it stops."""

    def __init__(
        self, settings: uvicorn.Config, gate: Gate, drain_s: float, started: Callable[[], None]
    ) -> None:
        super().__init__(settings)
        self.gate, self.drain_s, self._tell = gate, drain_s, started
        self._loop: asyncio.AbstractEventLoop | None = None
        self.signal = 0
        self.cut = 0
        """Requests that were under way when the time was over."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.signal or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self.signal = sig
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self.gate.draining = True
        log.info("draining", extra={"event": "drain", "under_way": self.gate.under_way})
        self._drain = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        until = time.monotonic() + self.drain_s
        while self.gate.under_way and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.cut = self.gate.under_way
        if self.cut:
            log.error("requests are cut off", extra={"event": "cut", "under_way": self.cut})
        self.should_exit = True


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's algorithm on, which holds each answer back for 40 ms.
    place = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((config.host, config.port))
    except OSError as problem:
        place.close()
        raise NotServed(f"cannot listen on {config.host}:{config.port}: {problem.strerror}") from None
    return place


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and what the record was given."""

    known = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in self.known}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=True, default=str)

    converter = staticmethod(time.gmtime)


def log_json(level: int = logging.INFO) -> None:
    """All logs of this process as JSON lines on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


__all__ = ["CannotRun", "NotServed", "chosen_format", "log_json", "open_verified", "serve"]
