"""Archives that must not be unpacked, one function each; `bundle.json` comes first wherever that matters."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import zstandard

Make = Callable[[Path], None]
TARS: dict[str, Make] = {}
ZIPS: dict[str, Make] = {}


def manifest(**sizes: int) -> bytes:
    return json.dumps({"files": {name: {"bytes": size} for name, size in sizes.items()}}).encode()


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    for field, value in fields.items():
        setattr(about, field, value)
    return about, data


def first(**sizes: int) -> tuple[tarfile.TarInfo, bytes]:
    return entry("bundle.json", manifest(**sizes))


def write_tar(
    path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for about, data in entries:
            tar.addfile(about, io.BytesIO(data))
    path.write_bytes(zstandard.compress(buffer.getvalue()))


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> Make:
    return lambda path: write_tar(path, list(entries))


def link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=kind, linkname=target)


TARS["a way up"] = tar(first(**{"../x": 1}), entry("../x", b"x"))
TARS["a way up inside"] = tar(first(**{"a/../../x": 1}), entry("a/../../x", b"x"))
TARS["an absolute path"] = tar(first(**{"/tmp/x": 1}), entry("/tmp/x", b"x"))
TARS["a backslash"] = tar(first(**{"..\\x": 1}), entry("..\\x", b"x"))
TARS["a drive"] = tar(first(**{"C:x": 1}), entry("C:x", b"x"))
TARS["a control character"] = tar(first(**{"a\x1b[2J": 1}), entry("a\x1b[2J", b"x"))
TARS["a symbolic link"] = tar(first(a=0), link("a", "/etc/passwd", tarfile.SYMTYPE))
TARS["a link, then a file through it"] = tar(
    first(**{"d": 0, "d/x": 1}), link("d", "/tmp", tarfile.SYMTYPE), entry("d/x", b"x")
)
TARS["a hard link"] = tar(first(a=0), link("a", "bundle.json", tarfile.LNKTYPE))
TARS["a hard link outside"] = tar(first(a=0), link("a", "/etc/shadow", tarfile.LNKTYPE))
TARS["the manifest as a link"] = tar(link("bundle.json", "/etc/hostname", tarfile.SYMTYPE))
TARS["a device"] = tar(first(a=0), entry("a", type=tarfile.CHRTYPE, devmajor=1, devminor=5))
TARS["a block device"] = tar(first(a=0), entry("a", type=tarfile.BLKTYPE))
TARS["a pipe"] = tar(first(a=0), entry("a", type=tarfile.FIFOTYPE))
TARS["a folder"] = tar(first(a=0), entry("a", type=tarfile.DIRTYPE))
TARS["a file that nobody knows"] = tar(first(a=1), entry("a", b"x"), entry("conftest.py", b"x"))
TARS["a file twice"] = tar(first(a=1), entry("a", b"x"), entry("a", b"y"))
TARS["a file twice in other letters"] = tar(first(a=1, A=1), entry("a", b"x"), entry("A", b"y"))
TARS["the manifest twice"] = tar(first(a=1), first(a=2))
TARS["another size"] = tar(first(a=1), entry("a", b"xx"))
TARS["a long name"] = tar(first(**{"a" * 300: 1}), entry("a" * 300, b"x"))
TARS["a deep name"] = tar(first(**{"a/" * 20 + "x": 1}), entry("a/" * 20 + "x", b"x"))
TARS["a bomb that declares itself"] = tar(first(a=10**12), entry("a", b""))
TARS["a negative size"] = tar(first(a=-(10**12), b=1), entry("b", b"x"))
TARS["ten thousand files and one"] = tar(first(**{str(each): 0 for each in range(10_001)}))


def _bomb(path: Path) -> None:
    """A kilobyte that says it is one file of a byte, and is 300 MB of headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as packed:
        about, data = first(a=1)
        packed.addfile(about, io.BytesIO(data))
        about, data = entry("a", b"x", pax_headers={"comment": "0" * (40 << 20)})
        packed.addfile(about, io.BytesIO(data))
    path.write_bytes(zstandard.compress(buffer.getvalue()))


TARS["a bomb in a header"] = _bomb


def zipped(*entries: tuple[str, bytes, int], manifest_of: dict[str, int] | None = None) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(
                "bundle.json", manifest(**(manifest_of or {name: len(data) for name, data, _ in entries}))
            )
            for name, data, mode in entries:
                about = zipfile.ZipInfo(name)
                about.external_attr, about.compress_type = mode << 16, zipfile.ZIP_DEFLATED
                packed.writestr(about, data)

    return make


ZIPS["a way up"] = zipped(("../x", b"x", 0o100644))
ZIPS["an absolute path"] = zipped(("/tmp/x", b"x", 0o100644))
ZIPS["a symbolic link"] = zipped(("a", b"/etc/passwd", 0o120777))
ZIPS["a device"] = zipped(("a", b"", 0o020644))
ZIPS["a folder"] = zipped(("a/", b"", 0o040755))
ZIPS["a file that nobody knows"] = zipped(("a", b"x", 0o100644), manifest_of={"b": 1})
ZIPS["a bomb that declares itself"] = zipped(("a", b"0" * (80 << 20), 0o100644))
ZIPS["another size"] = zipped(("a", b"0" * 1000, 0o100644), manifest_of={"a": 1})


def _patched(at: bytes, offset: int, value: bytes) -> Make:
    """A sound zip in which a field behind each signature `at` was overwritten."""

    def make(path: Path) -> None:
        zipped(("a", b"0" * 1000, 0o100644))(path)
        data = bytearray(path.read_bytes())
        place = data.rfind(at)
        data[place + offset : place + offset + len(value)] = value
        path.write_bytes(data)

    return make


ZIPS["an encrypted file"] = _patched(b"PK\x01\x02", 8, struct.pack("<H", 1))
ZIPS["members over each other"] = _patched(b"PK\x01\x02", 20, struct.pack("<I", 1 << 30))
