"""The hub's tokenizer files: fetched without code, kept, asked for again, and offline in one clear line."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchstone._errors import DataError, Offline
from torchstone.data.bpe import train_bpe
from torchstone.data.hub_tokenizer import ATTEMPTS, fetch_tokenizer

pytest.importorskip("huggingface_hub", reason="pip install 'torchstone[hf]'")

REVISION = "0" * 39 + "1"


class Hub(http.server.ThreadingHTTPServer):
    """One repository, `someone/tiny`; the first `failing` requests are answered with 503."""

    files: dict[str, bytes]
    failing = 0
    requests: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.failing:
            self.server.failing -= 1
            return self._send(503, b"busy")
        path = self.path.split("?")[0]
        if path.startswith("/api/models/someone/tiny/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.server.files.items()
            ]
            return self._send(200, json.dumps(tree).encode())
        if path.startswith("/api/models/someone/tiny"):
            listing = {
                "id": "someone/tiny",
                "sha": REVISION,
                "siblings": [{"rfilename": n} for n in self.server.files],
            }
            return self._send(200, json.dumps(listing).encode())
        name = path.rsplit("/", 1)[-1]
        if path.startswith("/someone/tiny/resolve/") and name in self.server.files:
            return self._send(200, self.server.files[name])
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        etag = hashlib.sha1(body).hexdigest()
        told = {
            "Content-Length": str(len(body)),
            "ETag": f'"{etag}"',
            "X-Repo-Commit": REVISION,
            **(headers or {}),
        }
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Requests are kept by the server."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    train_bpe(["a tokenizer of pieces"] * 5, 300).save(tmp_path / "made")
    server = Hub(("127.0.0.1", 0), Answers)
    server.files = {
        name: (tmp_path / "made" / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")
    } | {"modeling_evil.py": b"raise SystemExit('code was run')", "model.safetensors": b"large"}
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(hub: Hub, cache: Path, name: str = "someone/tiny"):
    return fetch_tokenizer(name, endpoint=hub.url, cache_dir=cache, pause_s=0.0)


def test_files_are_fetched_once_and_no_others(hub: Hub, tmp_path: Path) -> None:
    tokenizer = fetch(hub, tmp_path / "cache")
    assert tokenizer.decode(tokenizer.encode("a tokenizer é")) == "a tokenizer é"
    assert tokenizer.eos_token_id == 1
    assert not any("evil" in path or "safetensors" in path for path in hub.requests)
    asked = len(hub.requests)
    assert fetch(hub, tmp_path / "cache").fingerprint == tokenizer.fingerprint
    assert len(hub.requests) == asked


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.failing = 1
    assert fetch(hub, tmp_path / "cache").eos_token_id == 1
    assert len(hub.requests) > 1


def test_no_answer_is_one_clear_line(hub: Hub, tmp_path: Path) -> None:
    hub.failing = 10**6
    with pytest.raises(Offline, match="neither in the local cache nor to be had") as refused:
        fetch(hub, tmp_path / "cache")
    assert refused.value.exit_code == 75
    assert "data.tokenizer=auto" in refused.value.next
    assert "\n" not in refused.value.why
    assert len(hub.requests) >= ATTEMPTS


def test_a_name_that_the_hub_does_not_know_is_no_network_fault(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the hub has no someone/absent"):
        fetch(hub, tmp_path / "cache", "someone/absent")
