"""Heat maps inside a page: numbers from 0 to 255 as tiny pictures, told in words beside, without a library.

A picture is a PNG of one pixel per number in the page itself, which the browser enlarges without smoothing.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Sequence

from torchstone.report.page import text

NEAR, FAR = (0xFF, 0xFF, 0xFF), (0x08, 0x30, 0x6B)
"""Colours of none and all: from white to a blue so dark that the order shows without colour, too."""


def heat_map(levels: bytes, width: int, described: str) -> str:
    """`levels` row by row, `width` to a row, as an image; `described` says what it shows."""
    height = len(levels) // width
    source = base64.b64encode(_png(levels, width, height)).decode("ascii")
    return (
        f'<img class="heat" width="{width * 4}" height="{height * 4}" alt="{text(described)}" '
        f'src="data:image/png;base64,{source}">'
    )


def unpacked(packed: str, width: int) -> bytes | None:
    """Levels from base64, or None where a stranger's report holds something else."""
    try:
        levels = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return None
    return levels if 0 < width <= 512 and levels and len(levels) % width == 0 else None


def shade(share: float) -> str:
    """The colour of a share from 0 to 1, and of text on it, as a CSS declaration."""
    share = min(1.0, max(0.0, share))
    mixed = [round(near + (far - near) * share) for near, far in zip(NEAR, FAR, strict=True)]
    ink = "#ffffff" if share > 0.66 else "#000000"  # either has a contrast of 4.5 and more
    return f"background:rgb({','.join(map(str, mixed))});color:{ink}"


def _png(levels: bytes, width: int, height: int) -> bytes:
    """With a palette of 256 colours (PNG specification, third edition, chapter 11)."""
    palette = b"".join(
        bytes(round(near + (far - near) * level / 255) for near, far in zip(NEAR, FAR, strict=True))
        for level in range(256)
    )
    rows = b"".join(b"\0" + levels[start : start + width] for start in range(0, width * height, width))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts: Sequence[tuple[bytes, bytes]] = (
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
