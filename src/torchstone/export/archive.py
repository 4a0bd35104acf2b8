"""A bundle as one file, the same bytes each time; and the way back, on which nothing is believed.

    pack(folder, Path("bundle.tar.zst"))         # or .zip
    unpack(Path("bundle.tar.zst"), into)         # ArchiveRefused for links, ways out, bombs, strangers

`bundle.json` comes first and vouches for the rest: name and size of every other member are known before one
byte of it is written, so an archive cannot grow beyond what it declares, and what it declares is limited.
"""

from __future__ import annotations

import contextlib
import json
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from torchstone import _files
from torchstone._errors import DataError, UntrustedCode, UsageError
from torchstone._optional import require
from torchstone.export.standalone.runtimes import MANIFEST
from torchstone.export.standalone.verify import is_inside

KINDS = (".tar.zst", ".zip")
MANIFEST_LIMIT = 8 << 20
"""Bytes of bundle.json, headers included."""
FILES_LIMIT = 10_000
EXPANSION_LIMIT = 100
"""Bytes out for each byte in; weights hardly shrink, so an honest bundle stays far below."""
ALWAYS_ALLOWED = 64 << 20
"""Bytes that may come out of the smallest archive."""
_HEADERS = 4096
"""Bytes of headers and padding that a member of a tar may have."""
_CHUNK = 1 << 20
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip can tell."""


class ArchiveRefused(UntrustedCode):
    """An archive that would write elsewhere, write links or devices, or grow without measure."""


def kind_of(path: Path) -> str:
    """.tar.zst or .zip, by the name; UsageError for another."""
    for kind in KINDS:
        if path.name.endswith(kind):
            return kind
    raise UsageError(f"{path.name} is no name of an archive", next=f"end it in {' or '.join(KINDS)}")


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.endswith(KINDS)


# --- out ----------------------------------------------------------------------------------------


def pack(folder: Path, archive: Path) -> Path:
    """Write `archive`; equal bundles give equal bytes, whoever packs them and when."""
    kind = kind_of(archive)
    names = [MANIFEST, *sorted(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])]
    with _files.replacing(archive) as partial:
        (_pack_tar if kind == ".tar.zst" else _pack_zip)(folder, names, partial)
    return archive


def _pack_tar(folder: Path, names: list[str], archive: Path) -> None:
    zstandard = require("zstandard", "export")
    with (
        archive.open("wb") as raw,
        zstandard.ZstdCompressor(level=10).stream_writer(raw) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in names:
            about = tarfile.TarInfo(name)
            about.size, about.mode = (folder / name).stat().st_size, 0o644
            with (folder / name).open("rb") as file:
                tar.addfile(about, file)


def _pack_zip(folder: Path, names: list[str], archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
        for name in names:
            about = zipfile.ZipInfo(name, _EARLIEST)
            about.compress_type, about.create_system, about.external_attr = (
                zipfile.ZIP_DEFLATED,
                3,
                0o100644 << 16,
            )
            about.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file, packed.open(about, "w") as out:
                while chunk := file.read(_CHUNK):
                    out.write(chunk)


# --- back ---------------------------------------------------------------------------------------


def unpack(archive: Path, into: Path) -> Path:
    """Write the bundle of `archive` into the empty folder `into`.

    Errors: ArchiveRefused (unsafe), DataError (damaged, or no bundle). What was written before that stays in
    `into`, which the caller throws away.
    """
    kind = kind_of(archive)
    into.mkdir(parents=True, exist_ok=True)
    try:
        with (_open_tar if kind == ".tar.zst" else _open_zip)(archive) as members:
            _write(members, archive, into)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as damage:
        if isinstance(damage, OSError) and damage.errno is not None:
            raise
        raise DataError(f"{archive.name} is damaged", where=str(archive), why=str(damage)) from None
    return into


class _Member:
    """One entry of an archive: what it says of itself, and how its content is opened."""

    def __init__(self, name: str, size: int, fault: str, content: Callable[[], IO[bytes] | None]) -> None:
        self.name, self.size, self.fault, self.content = name, size, fault, content


class _Members:
    """The entries in their order. `allow` tells how many bytes may still come."""

    def __init__(self, entries: Iterator[_Member], counted: _Counted | None = None) -> None:
        self.entries, self.counted = entries, counted

    def allow(self, count: int) -> None:
        if self.counted is not None:
            self.counted.left = count


def _write(members: _Members, archive: Path, into: Path) -> None:
    declared: dict[str, int] | None = None
    seen: set[str] = set()
    for each in members.entries:
        fault = each.fault or _fault_of_name(each.name, seen)
        if fault:
            raise _refused(archive, each.name, fault)
        seen.add(each.name.casefold())
        if declared is None:
            if each.name != MANIFEST or each.size > MANIFEST_LIMIT:
                raise DataError(f"{archive.name} is no bundle", why=f"it does not begin with {MANIFEST}")
            _copy(each, into, archive)
            declared = _declared(into / MANIFEST, archive)
            members.allow(sum(declared.values()) + _HEADERS * (len(declared) + 4))
            continue
        if each.name not in declared:
            raise _refused(archive, each.name, f"{MANIFEST} does not know it")
        if each.size != declared[each.name]:
            raise _refused(
                archive, each.name, f"it has {each.size} bytes, {MANIFEST} says {declared[each.name]}"
            )
        _copy(each, into, archive)
    missing = sorted(name for name in declared or {MANIFEST: 0} if name.casefold() not in seen)
    if missing:
        raise DataError(f"{archive.name} is not whole", why=f"{missing[0]} is missing")


def _declared(manifest: Path, archive: Path) -> dict[str, int]:
    """Sizes by name; refused where they are more than such an archive may hold."""
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        files = {str(name): int(each["bytes"]) for name, each in told["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as damage:
        raise DataError(f"{archive.name} is no bundle", why=f"{MANIFEST}: {type(damage).__name__}") from None
    total, limit = sum(files.values()), ALWAYS_ALLOWED + EXPANSION_LIMIT * archive.stat().st_size
    if len(files) > FILES_LIMIT:
        raise _refused(archive, MANIFEST, f"it lists {len(files):,} files, more than {FILES_LIMIT:,}")
    if total > limit or any(size < 0 for size in files.values()):
        raise _refused(archive, MANIFEST, f"{total:,} bytes would come out, allowed are {limit:,}")
    return files


def _fault_of_name(name: str, seen: set[str]) -> str:
    if not is_inside(name) or ":" in name or any(ord(letter) < 32 for letter in name):
        return "it would lie outside of the folder"
    if len(name) > 255 or name.count("/") > 8:
        return "its name is too long"
    if name.casefold() in seen:
        return "it comes twice"
    return ""


def _copy(member: _Member, into: Path, archive: Path) -> None:
    path = into / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    content = member.content()
    assert content is not None
    with content, path.open("xb") as file:
        while chunk := content.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise _refused(archive, member.name, "more comes out than it says")
            file.write(chunk)
    if left:
        raise DataError(f"{archive.name} is damaged", why=f"{member.name} ends {left} bytes early")


def _refused(archive: Path, name: str, why: str) -> ArchiveRefused:
    return ArchiveRefused(
        f"{archive.name} is not unpacked",
        where=name,
        why=why,
        next="ask whoever made it for the folder itself",
    )


class _Counted:
    """A stream that gives no more than it may: what a packed stream expands to is not known before."""

    def __init__(self, stream: Any, archive: Path) -> None:
        self.stream, self.archive, self.left = stream, archive, MANIFEST_LIMIT

    def read(self, size: int = -1) -> bytes:
        wanted = self.left + 1 if size < 0 else min(size, self.left + 1)
        data: bytes = self.stream.read(wanted)
        self.left -= len(data)
        if self.left < 0:
            raise _refused(self.archive, MANIFEST, "more comes out than the archive declares")
        return data


@contextlib.contextmanager
def _open_tar(archive: Path) -> Iterator[_Members]:
    zstandard = require("zstandard", "export")
    with archive.open("rb") as raw:
        try:
            # A window of 128 MiB is what the highest ordinary level asks for.
            stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw)
            counted = _Counted(stream, archive)
            with tarfile.open(fileobj=counted, mode="r|") as tar:  # type: ignore[call-overload]
                yield _Members(_tar_members(tar), counted)
        except zstandard.ZstdError as damage:
            raise DataError(f"{archive.name} is damaged", where=str(archive), why=str(damage)) from None


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for each in tar:
        fault = ""
        if each.issym() or each.islnk():
            fault = f"it is a link to {each.linkname}"
        elif not each.isreg() or each.issparse():
            fault = "it is no ordinary file"
        yield _Member(each.name, each.size, fault, partial(tar.extractfile, each))


@contextlib.contextmanager
def _open_zip(archive: Path) -> Iterator[_Members]:
    with zipfile.ZipFile(archive) as packed:
        if sum(each.compress_size for each in packed.infolist()) > archive.stat().st_size:
            raise _refused(archive, MANIFEST, "its members lie over each other")
        yield _Members(_zip_members(packed))


def _zip_members(packed: zipfile.ZipFile) -> Iterator[_Member]:
    for each in packed.infolist():
        mode = each.external_attr >> 16
        fault = ""
        if stat.S_ISLNK(mode):
            fault = "it is a link"
        elif each.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
            fault = "it is no ordinary file"
        elif each.flag_bits & 1:
            fault = "it is encrypted"
        elif each.orig_filename != each.filename:
            fault = "it would lie outside of the folder"
        yield _Member(each.filename, each.file_size, fault, partial(packed.open, each))
