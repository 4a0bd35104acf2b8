"""The Dockerfile of a bundle, read and done step by step, for no engine builds it here."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from web.conftest import Client, until

from torchstone.export.verify import verify_bundle
from torchstone.web.serving.container import dockerfile

ALONE = (
    "import sys, runpy; sys.modules['torch'] = sys.modules['torchstone'] = None; sys.argv = sys.argv[1:]; "
    "sys.path.insert(0, '.'); runpy.run_module('serving', run_name='__main__')"
)
"""`python -m`, where neither torch nor torchstone can be imported."""


def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [each for each in joined.splitlines() if each and not each.startswith("#")]
    return [(name, value) for name, _, value in (each.partition(" ") for each in lines)]


def free_port() -> str:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return str(place.getsockname()[1])


def answers(client: Client) -> bool:
    try:
        return client("GET", "/ready").status == 200
    except OSError:
        return False


def test_its_steps_are_sound(made_once: Path) -> None:
    steps = instructions((made_once / "Dockerfile").read_text())
    names, by_name = [name for name, _ in steps], dict(steps)
    assert names[0] == "FROM" and by_name["FROM"].endswith("-slim")
    assert by_name["USER"] == "1000:1000" and names.index("USER") < names.index("CMD")
    assert names.index("RUN") < names.index("USER"), "packages are installed before the rights are given up"
    for name, value in steps:
        assert name != "COPY" or (made_once / value.split()[0]).exists()
    assert "-r serving/requirements.txt" in by_name["RUN"]
    lines = (made_once / "serving" / "requirements.txt").read_text().splitlines()[1:]
    needed = {each.partition("==")[0] for each in lines}
    assert needed == {"numpy", "onnxruntime", "tokenizers", "fastapi", "uvicorn", "prometheus-client"}
    assert verify_bundle(made_once)["verdict"] == "pass", "the server's files are under the seal too"
    torch = dict(instructions(dockerfile("pt2", with_torch=True)))
    assert "--extra-index-url $TORCH_INDEX" in torch["RUN"] and torch["ARG"].startswith("TORCH_INDEX=")


def test_its_command_starts_and_its_probe_tells(made_once: Path, tmp_path: Path) -> None:
    by_name = dict(instructions((made_once / "Dockerfile").read_text()))
    typed, probe = json.loads(by_name["CMD"]), json.loads(by_name["HEALTHCHECK"].partition(" CMD ")[2])
    assert typed[:3] == ["python", "-m", "serving"] and by_name["EXPOSE"] in typed
    port = free_port()
    command = [
        sys.executable,
        "-c",
        ALONE,
        *(port if each == by_name["EXPOSE"] else each for each in typed[2:]),
    ]
    probe = [sys.executable, *(each.replace(f":{by_name['EXPOSE']}/", f":{port}/") for each in probe[1:])]
    bare = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    refused = subprocess.run(command, cwd=made_once, env=bare, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "set TORCHSTONE_SERVE_TOKEN" in refused.stderr
    with (tmp_path / "log").open("w") as log:
        environment = bare | {"TORCHSTONE_SERVE_TOKEN": "geheim"}
        process = subprocess.Popen(command, stderr=log, cwd=made_once, env=environment)
    try:
        client = Client(f"http://127.0.0.1:{port}", "geheim")
        until(lambda: process.poll() is not None or answers(client), 120)
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert subprocess.run(probe, check=False).returncode == 0
        assert client("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200
        assert Client(client.address)("POST", "/v1/completions", {"prompt": "a"}).status == 401
        process.terminate()
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.wait()
    assert subprocess.run(probe, check=False, capture_output=True).returncode != 0
