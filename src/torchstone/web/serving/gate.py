"""In front of the routes: who may ask, how much, and what became of it.

A request passes in this order: token (401), drain (503), number under way (429), size and speed of the body
(413, 408). Health, readiness and metrics are not counted and never refused for load, since those who watch a
server need them most then. Each request gets an id, a line in the log and a place in the metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from torchstone.web.serving.config import ServeConfig
from torchstone.web.serving.messages import problem
from torchstone.web.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/health", "/ready")
"""Without a token, for probes of a container have none."""
WORK = "/v1/"
ROUTES = (*OPEN, "/metrics", "/openapi.json", "/v1/models", "/v1/predict", "/v1/completions")
log = logging.getLogger("torchstone.serving")


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: App, config: ServeConfig, metrics: Metrics, token: str | None) -> None:
        self.app, self.config, self.metrics = app, config, metrics
        self.token = None if token is None else token.encode()
        self.under_way = 0
        """Requests for work that have no whole answer yet."""
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, path = time.monotonic(), scope["path"]
        answer = Answer(send)
        try:
            await self._admit(scope, receive, answer)
        finally:
            seconds = time.monotonic() - began
            route = path if path in ROUTES else "other"
            self.metrics.requests.labels(route, str(answer.status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            told = {"method": scope["method"], "path": path[:200], "status": answer.status}
            told |= {"request": answer.id, "seconds": round(seconds, 6)}
            level = logging.DEBUG if path in OPEN else logging.INFO
            log.log(level, "answered", extra={"event": "request", **told})

    async def _admit(self, scope: Scope, receive: Receive, send: Answer) -> None:
        path = scope["path"]
        if path not in OPEN and not self._known(scope):
            return await refuse(send, 401, "token", "give the token: Authorization: Bearer TOKEN")
        if not path.startswith(WORK):
            return await self.app(scope, receive, send)
        if self.draining:
            return await refuse(send, 503, "draining", "the server is about to stop", retry=1, close=True)
        if self.under_way >= self.config.max_concurrent:
            limit = self.config.max_concurrent
            return await refuse(send, 429, "busy", f"{limit} requests are under way already", retry=1)
        self.under_way += 1
        self.metrics.under_way.set(self.under_way)
        try:
            await self._in_time(scope, receive, send)
        finally:
            self.under_way -= 1
            self.metrics.under_way.set(self.under_way)

    async def _in_time(self, scope: Scope, receive: Receive, send: Answer) -> None:
        """The one place where time runs out, for the body, the model and a reader who does not read."""
        body: bytes | None = None
        try:
            async with asyncio.timeout(self.config.timeout_s):
                body = await self._read(scope, receive, send)
                if body is not None:
                    await self.app(scope, _replayed(body, receive), send)
        except TimeoutError:
            limit = f"{self.config.timeout_s:g} s"
            if send.status:
                await send.end(problem("timeout", f"no whole answer within {limit}"))
            elif body is None:
                await refuse(send, 408, "slow", f"the body did not come within {limit}", close=True)
            else:
                await refuse(send, 503, "timeout", f"no answer within {limit}", retry=1)

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """The body first: a client that talks without end costs no more than its connection."""
        most = self.config.max_body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        size = int(declared) if declared.isdigit() else 0
        parts: list[bytes] = []
        more = True
        while more and size <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size = max(size, sum(map(len, parts)))
            more = message.get("more_body", False)
        if size <= most:
            return b"".join(parts)
        await refuse(send, 413, "too_large", f"the body is larger than {most} bytes", close=True)
        return None

    def _known(self, scope: Scope) -> bool:
        if self.token is None:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self.token)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body was read already."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


class Answer:
    """`send` of one request: adds the id, knows what was begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.id = uuid.uuid4().hex
        self.status = 0
        """0 until the answer has begun."""
        self._is_stream = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            self._is_stream = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
            )
            message = {**message, "headers": [*headers, (b"x-request-id", self.id.encode())]}
        await self._send(message)

    async def end(self, told: dict[str, Any]) -> None:
        """Say in a stream why it ends here; whatever else was begun is cut off."""
        if not self._is_stream:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):  # the reader may have stopped reading
                body = f"data: {json.dumps(told)}\n\n".encode()
                await self._send({"type": "http.response.body", "body": body})


async def refuse(
    send: Send, status: int, code: str, message: str, *, retry: int | None = None, close: bool = False
) -> None:
    body = json.dumps(problem(code, message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry is not None:
        headers.append((b"retry-after", str(retry).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
