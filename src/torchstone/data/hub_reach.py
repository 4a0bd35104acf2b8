"""Whether the hub of Hugging Face can be asked at all: its library would retry for half a minute or more."""

from __future__ import annotations

import os
import socket
import urllib.request
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def hub_is_forbidden() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off")


def hub_answers() -> bool:
    """One attempt to connect; behind a proxy only the library can tell, so it is let try."""
    if hub_is_forbidden():
        return False
    if urllib.request.getproxies():
        return True
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname or "", port), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True
