"""Jobs for the worker: some call the C library past the watchman, so that the walls alone must answer."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any


def probe(port: int, secret: str, outside: str, parent: int, folder: str) -> dict[str, Any]:
    """What native code can reach from inside: "reached", or the name of the error."""
    libc = ctypes.CDLL(None, use_errno=True)

    def tried(call: Callable[[], int]) -> str:
        if call() >= 0:
            return "reached"
        return errno.errorcode.get(ctypes.get_errno(), "?")

    def connect() -> int:
        number = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        address = (
            struct.pack("<H", socket.AF_INET) + struct.pack("!H", port) + bytes([127, 0, 0, 1]) + bytes(8)
        )
        return int(libc.connect(number, address, len(address)))

    return {
        "read secret": tried(lambda: libc.open(secret.encode(), os.O_RDONLY)),
        "read shadow": tried(lambda: libc.open(b"/etc/shadow", os.O_RDONLY)),
        "write outside": tried(lambda: libc.open(outside.encode(), os.O_CREAT | os.O_WRONLY, 0o600)),
        "write /tmp": tried(lambda: libc.open(b"/tmp/torchstone-canary", os.O_CREAT | os.O_WRONLY, 0o600)),
        "write library": tried(lambda: libc.open(os.__file__.encode(), os.O_WRONLY)),
        "connect": tried(connect),
        "signal parent": tried(lambda: libc.kill(parent, 0)),
        "become root": tried(lambda: libc.setuid(0)),
        "mount": tried(lambda: libc.mount(b"none", folder.encode(), b"tmpfs", 0, None)),
        "unmount": tried(lambda: libc.umount2(b"/usr", 2)),
        "trace": tried(lambda: libc.ptrace(16, parent, 0, 0)),
        "home": os.environ["HOME"],
        "names": sorted(os.environ),
        "user": os.getuid(),
        "status": dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()),
    }


def bomb() -> dict[str, Any]:
    """How many processes native code can have at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    children = []
    while len(children) < 2000:
        pid = libc.fork()
        if pid == 0:
            signal.pause()
        if pid < 0:
            break
        children.append(pid)
    return {"children": len(children), "error": errno.errorcode.get(ctypes.get_errno(), "?")}


def leave_a_daemon() -> dict[str, Any]:
    """A grandchild in a session of its own that would outlive us."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fork() == 0:
        libc.setsid()
        if libc.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pause()
        os._exit(0)
    return {"left": True}


def ordinary_work() -> dict[str, Any]:
    """What a run of the checks does with a model, none of it forbidden."""
    import copy
    import tempfile

    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = torch.nn.Sequential(torch.nn.Embedding(11, 16), layer, torch.nn.Linear(16, 11))
    seen: list[int] = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    ids = torch.randint(0, 11, (2, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    handle.remove()
    copy.deepcopy(model).to(torch.bfloat16)(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(ids)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, "kept.safetensors")
    load_file("kept.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder, "weights.pt"))
        torch.load(Path(folder, "weights.pt"), weights_only=True)
    torch.utils.checkpoint.checkpoint(layer, torch.zeros(1, 2, 16), use_reentrant=False)
    return {"loss": loss.item(), "hooks": len(seen)}


def huge_answer() -> dict[str, Any]:
    return {"text": "x" * 1_000_000}


def list_answer() -> list[int]:
    return [1, 2]


def escape_answer() -> dict[str, Any]:
    return {"name\x1b[2J": ["\x1b]0;owned\x07"]}
