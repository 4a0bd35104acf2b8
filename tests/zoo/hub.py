"""As much of the Hugging Face hub as a push needs: a repository in memory, on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """`files` of the one repository, by name; `refuses` is a status that every request gets."""

    address: str = ""
    repo: str | None = None
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    refuses: int | None = None
    loses: str | None = None
    """A file that arrives empty."""
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if self.refuses is not None:
            return self.refuses, {"error": "no"}
        if path == "/api/repos/create":
            told = json.loads(body)
            self.repo = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
            self.private = told.get("visibility") == "private" or bool(told.get("private"))
            return 200, {"url": f"{self.address}/{self.repo}", "id": self.repo}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            named = json.loads(body)["files"]
            modes = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in named]
            return 200, {"files": modes}
        if "/commit/" in path:
            return 200, self._commit([json.loads(line) for line in body.splitlines()])
        if "/tree/" in path:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            return 200, rows
        return 404, {"error": f"the stand-in knows no {path}"}

    def _commit(self, lines: list[Any]) -> dict[str, Any]:
        for each in lines:
            value = each["value"]
            if each["key"] == "file":
                data = base64.b64decode(value["content"])
                self.files[value["path"]] = b"" if value["path"] == self.loses else data
            elif each["key"] == "deletedFile":
                del self.files[value["path"]]
        self.commits += 1
        oid = f"{self.commits:040x}"
        return {"commitUrl": f"{self.address}/{self.repo}/commit/{oid}", "commitOid": oid, "success": True}


@contextmanager
def hub() -> Iterator[Hub]:
    it = Hub()

    class Answers(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, told = it.answer(self.command, self.path.partition("?")[0], body)
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _any

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    it.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield it
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
