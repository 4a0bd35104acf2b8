"""On SIGTERM what was begun ends, new work is turned away, and what takes too long is cut off and said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from web.conftest import Client, Held, serving, until

pytestmark = pytest.mark.timeout(400)  # whoever comes first waits for the exporters
STREAM = {"prompt": "a", "max_tokens": 30, "temperature": 0, "stream": True}


def events(rest: bytes) -> list[Any]:
    return [each.removeprefix("data: ") for each in rest.decode().split("\n\n") if each]


def test_the_program_ends_a_stream_and_then_itself(made_once: Path, tmp_path: Path) -> None:
    """The real one, by a real signal; its exit code is that of a state that is saved."""
    command = [sys.executable, "-m", "torchstone", "serve", str(made_once), "--port", "0", "--json"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path, text=True)
    try:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n") or told.count("{") != told.count("}"):
            told += process.stdout.readline()
        client = Client(json.loads(told)["address"])
        with client.begun("POST", "/v1/completions", STREAM) as answer:
            first = answer.readline()
            process.send_signal(signal.SIGTERM)
            chunks = events(first + answer.read())
        assert chunks[-1] == "[DONE]"
        assert json.loads(chunks[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.communicate()
    lines = [json.loads(each) for each in (tmp_path / "log").read_text().splitlines()]
    by_event = {each["event"]: each for each in lines}
    assert by_event["request"]["status"] == 200
    assert by_event["drain"]["level"] == "info"
    assert all({"time", "level", "event", "message"} <= set(each) for each in lines)


def test_while_it_drains_new_work_is_turned_away(held: Held) -> None:
    with serving(held) as it:
        held.go.clear()
        with it.client.begun("POST", "/v1/completions", STREAM) as answer:
            it.server.handle_exit(signal.SIGTERM, None)
            until(lambda: it.server.gate.draining)
            ready = it.client("GET", "/ready")
            assert (ready.status, ready.json["status"]) == (503, "draining")
            assert it.client("GET", "/health").status == 200
            late = it.client("POST", "/v1/completions", STREAM)
            assert (late.status, late.code, late.headers["connection"]) == (503, "draining", "close")
            held.go.set()
            assert events(answer.read())[-1] == "[DONE]"
        until(lambda: it.server.should_exit)
        assert (it.server.signal, it.server.cut) == (signal.SIGTERM, 0)


def test_what_does_not_end_in_time_is_cut_off(held: Held) -> None:
    with serving(held, drain_s=0.0) as it:
        held.go.clear()
        with it.client.begun("POST", "/v1/completions", STREAM) as answer:
            it.server.handle_exit(signal.SIGTERM, None)
            until(lambda: it.server.should_exit)
            assert it.server.cut == 1
            with pytest.raises(Exception, match=r"IncompleteRead|reset"):
                answer.read()
