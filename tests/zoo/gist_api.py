"""A real HTTP server on loopback that answers in the shape of the gist API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ID = "8c78c8681a2b3c4d5e6f708192a3b4c5"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Api:
    """A server in the shape of the gist API: what it answers, and what it was asked."""

    address: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    body: bytes | None = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def put(self, name: str, content: str, **extra: Any) -> None:
        self.files[name] = {
            "filename": name,
            "size": len(content.encode()),
            "truncated": False,
            "content": content,
            **extra,
        }

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path in self.raw:
            return 200, {}, self.raw[path]
        if path not in (f"/gists/{ID}", f"/gists/{ID}/{REVISION}", f"/gists/{ID}/{REVISION[:7]}"):
            return 404, {}, b'{"message": "Not Found"}'
        told = {
            "id": ID,
            "files": self.files,
            "owner": {"login": "someone"},
            "history": [{"version": REVISION}],
        }
        return self.status, self.headers, json.dumps(told).encode() if self.body is None else self.body


@contextmanager
def gist_api() -> Iterator[Api]:
    """The server while the block runs; it starts without files."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.asked.append((self.path, dict(self.headers)))
            status, headers, body = api.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api.address = f"http://127.0.0.1:{server.server_port}"
        yield api
        server.shutdown()
