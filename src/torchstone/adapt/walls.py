"""The walls of the isolated worker: what the Linux kernel offers, tried one by one, and said which stood.

Each step either happens or is written down as missing; nothing is assumed. Everything here runs before
a stranger's line is read, in a process that has one thread, and uses the standard library alone.

What is built, where the kernel allows it: a user namespace (an ordinary user) or an unprivileged user id
(root), a file system in which only Python, the system libraries and the private folder exist, no network
devices, own process and IPC name spaces, no capabilities, no way to gain any, and resource limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torchstone.adapt import landlock

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_MNT_DETACH = 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR = 442
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_SET_CHILD_SUBREAPER = 36

# User ids that no account has; one per worker, so that the process limit counts this worker alone.
_FIRST_USER, _NOBODY = 2_000_000_000, 65534

# What Python and torch read at run time besides their own folders.
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/sys/devices/system/cpu")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/os-release")
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass
class Walls:
    """What was tried: the protections that hold, and those that are missing with the reason."""

    held: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def attempt(self, name: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except (OSError, ValueError, AttributeError, KeyError) as problem:
            self.missing.append(f"{name} ({_reason(problem)})")
            return False
        self.held.append(name)
        return True


def _reason(problem: Exception) -> str:
    return (
        (problem.strerror if isinstance(problem, OSError) else None) or str(problem) or type(problem).__name__
    )


# --- before the fork: in the launcher ------------------------------------------------------------------


def own_processes(walls: Walls) -> None:
    """Put the next child into a process name space, through a user name space unless we are root."""
    if os.geteuid() != 0 and not walls.attempt("user namespace", _unshare_user):
        walls.missing.append("process namespace (needs a user namespace)")
        return
    walls.attempt("process namespace", lambda: _unshare(NEWPID))


def adopt_orphans() -> None:
    """A grandchild that leaves its session becomes our child, so that it can be found and ended."""
    with contextlib.suppress(OSError):
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    with contextlib.suppress(OSError):
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _unshare_user() -> None:
    user, group = os.geteuid(), os.getegid()
    _unshare(NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


# --- after the fork: in the worker -----------------------------------------------------------------------


def close_in(walls: Walls, folder: Path, readable: Iterable[Path]) -> None:
    """Name spaces and the file system view; `folder` stays writable, `readable` stays readable."""
    walls.attempt("no network (network namespace)", lambda: _unshare(NEWNET))
    walls.attempt("own IPC and host name", lambda: _unshare(NEWIPC | NEWUTS))
    if walls.attempt("mount namespace", lambda: _unshare(NEWNS)):
        walls.attempt(
            "only Python and its folder are visible, all but the folder read-only",
            lambda: _new_root(folder, list(readable)),
        )
        walls.held.remove("mount namespace")  # a means; the view is what protects


def limit(walls: Walls, limits: Mapping[str, float]) -> None:
    """Resource limits per process; memory counts from what is in use now."""
    in_use = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if _has_proc() else 0
    )
    cpu = int(limits["cpu_s"])
    wanted: list[tuple[str, int, int]] = [
        ("memory limit", resource.RLIMIT_AS, in_use + int(limits["memory_bytes"])),
        ("CPU time limit", resource.RLIMIT_CPU, cpu),
        ("file size limit", resource.RLIMIT_FSIZE, int(limits["file_bytes"])),
        ("open files limit", resource.RLIMIT_NOFILE, int(limits["open_files"])),
        ("no core dumps", resource.RLIMIT_CORE, 0),
    ]
    for name, kind, value in wanted:
        walls.attempt(name, _limiter(kind, value))


def _limiter(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def _has_proc() -> bool:
    return Path("/proc/self/statm").exists()


def give_up_rights(walls: Walls, folder: Path, readable: Iterable[Path], processes: int) -> None:
    """No root, no capabilities, none to be gained, a fence, and a process limit that counts for this user."""
    counted = os.geteuid() != 0 or walls.attempt("unprivileged user", lambda: _become_nobody(walls, folder))
    walls.attempt("no capabilities", _drop_capabilities)
    walls.attempt("no new privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1))
    system = [Path(each) for each in (*SYSTEM_FOLDERS, *SYSTEM_FILES)]
    try:
        governed = landlock.fence(folder, [*readable, *system])
        walls.held.append(f"fence around {', '.join(governed)} (Landlock)")
    except OSError as problem:
        walls.missing.append(f"fence (Landlock: {_reason(problem)})")
    walls.attempt("memory closed to other processes", lambda: _prctl(_PR_SET_DUMPABLE, 0))
    if counted and not _alone(walls) and not _has_proc():
        walls.missing.append("process limit (without /proc those of the user cannot be counted)")
    elif counted:
        # Outside a user name space all processes of the user count.
        allowed = processes if _alone(walls) else processes + _processes_of_user()
        walls.attempt("process limit", _limiter(resource.RLIMIT_NPROC, allowed))
    else:
        walls.missing.append(
            "process limit of the kernel (root is exempt; processes are counted from outside)"
        )
    die_with_parent()  # a change of user clears it


def _alone(walls: Walls) -> bool:
    return "unprivileged user" in walls.held or "user namespace" in walls.held


def _processes_of_user() -> int:
    return sum(
        each.name.isdigit() and each.stat().st_uid == os.getuid()
        for each in Path("/proc").iterdir()
        if each.is_dir()
    )


def _become_nobody(walls: Walls, folder: Path) -> None:
    """Leave root for a user id of our own; the private folder goes along."""
    if not any("folder read-only" in each for each in walls.held):
        _expect_reachable(folder)
    for user in (_FIRST_USER + os.getppid() % 100_000_000, _NOBODY):
        try:
            for each in (folder, *folder.rglob("*")):
                os.chown(each, user, user, follow_symlinks=False)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError as refused:
            if user == _NOBODY:
                raise
            del refused  # a container may map few ids; nobody is among them
            continue
        return


def _expect_reachable(folder: Path) -> None:
    for path in (folder.parent, Path(sys.prefix), Path(sys.base_prefix)):
        for step in (path, *path.parents):
            if not step.stat().st_mode & 0o001:
                raise PermissionError(0, f"another user cannot enter {step}")


def _drop_capabilities() -> None:
    with contextlib.suppress(OSError):  # without CAP_SETPCAP there is nothing to drop from the bounding set
        for capability in range(64):
            _prctl(_PR_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc().capset(header, nothing))


# --- the file system view -----------------------------------------------------------------------------


def _new_root(folder: Path, readable: list[Path]) -> None:
    """A root of our own in memory, with binds of what may be seen; the old one is let go."""
    root = folder / ".root"
    root.mkdir()
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID, "size=16m,mode=755")
    try:
        for each in _outermost([Path(each) for each in SYSTEM_FOLDERS] + readable):
            _show(each, root)
        for name in SYSTEM_FILES:
            if Path(name).is_file():
                _show(Path(name), root)
        _devices(root)
        _show(folder, root, writable=True)
        (root / "proc").mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # forbidden where the host hides parts of its own /proc
            _mount("proc", str(root / "proc"), "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/passwd").write_text(f"torchstone:x:{os.getuid()}:{os.getgid()}::{folder}:/\n")
        (root / ".old").mkdir()
    except OSError:
        _libc().umount2(str(root).encode(), _MNT_DETACH)
        root.rmdir()
        raise
    _check(
        _libc().syscall(_SYS_PIVOT_ROOT[os.uname().machine], str(root).encode(), str(root / ".old").encode())
    )
    os.chdir("/")
    _check(_libc().umount2(b"/.old", _MNT_DETACH))
    Path("/.old").rmdir()
    _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)
    os.chdir(folder)


def _outermost(paths: list[Path]) -> list[Path]:
    """Existing folders without those that lie inside another, links followed as well as kept."""
    present = [each for each in paths if each.exists()]
    every = {each.absolute() for each in present} | {each.resolve() for each in present}
    return [each for each in sorted(every) if not any(parent in every for parent in each.parents)]


def _show(path: Path, root: Path, *, writable: bool = False) -> None:
    """Bind `path` to the same place under `root`; read-only, or writable but not executable."""
    place = root / str(path).lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        if not place.is_symlink():
            place.symlink_to(path.readlink())
        return
    if path.is_dir():
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    # The private folder holds the new root; bound with what is mounted in it, it would contain itself.
    _mount(str(path), str(place), None, _MS_BIND if writable else _MS_BIND | _MS_REC)
    _restrict(place, _MS_NOSUID | _MS_NODEV | (_MS_NOEXEC if writable else _MS_RDONLY))


def _restrict(place: Path, flags: int) -> None:
    """Add mount flags to a bind and everything below it."""
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd; the low flags have equal numbers.
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    done = _libc().syscall(
        _SYS_MOUNT_SETATTR,
        _AT_FDCWD,
        str(place).encode(),
        _AT_RECURSIVE,
        attributes,
        ctypes.sizeof(attributes),
    )
    if done != 0:  # before Linux 5.12: one mount at a time, and flags that are locked must be named again
        locked = os.statvfs(place).f_flag & (_MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 1024 | 2048)
        _mount("none", str(place), None, _MS_REMOUNT | _MS_BIND | flags | locked)


def _devices(root: Path) -> None:
    (root / "dev").mkdir(exist_ok=True)
    for name in _DEVICES:
        place = root / "dev" / name
        place.touch()
        _mount(f"/dev/{name}", str(place), None, _MS_BIND)
    (root / "dev/shm").mkdir()
    _mount("tmpfs", str(root / "dev/shm"), "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "size=64m,mode=1777")


# --- the C library --------------------------------------------------------------------------------------


def _libc() -> ctypes.CDLL:
    """Of Linux: another system may have these functions under the same names, and they do something else."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{sys.platform} has no such call")
    return ctypes.CDLL(None, use_errno=True)


def _check(answer: int) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _unshare(flags: int) -> None:
    _check(_libc().unshare(flags))


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _mount(source: str, place: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _check(
        _libc().mount(
            source.encode(),
            place.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        )
    )
