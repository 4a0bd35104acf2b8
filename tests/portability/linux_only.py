"""Names of the standard library that Linux has and macOS has not, by module; patterns of whole names."""

from __future__ import annotations

import re

PATTERNS = {
    "os": (
        r"sched_([gs]etaffinity|[gs]etscheduler|[gs]etparam|rr_get_interval|param)",
        r"SCHED_(BATCH|IDLE|RESET_ON_FORK)|posix_f(allocate|advise)|POSIX_FADV_\w+",
        r"pidfd_open|P_PIDFD|memfd_create|MFD_\w+|eventfd\w*|EFD_\w+|copy_file_range|splice|SPLICE_\w+",
        r"getrandom|GRND_\w+|[gs]etres[ug]id|fdatasync|setns|unshare|CLONE_\w+|pipe2|waitid|p(read|write)v2",
        r"(get|set|list|remove)xattr|XATTR_\w+|O_(DIRECT|TMPFILE|NOATIME|PATH|LARGEFILE|RSYNC)|RWF_\w+",
    ),
    "signal": (r"pidfd_send_signal|sigtimedwait|sigwaitinfo|SIG(RTMIN|RTMAX|PWR|POLL|STKFLT|CLD)",),
    "resource": (r"prlimit|RLIMIT_(MSGQUEUE|NICE|RTPRIO|RTTIME|SIGPENDING|OFILE)|RUSAGE_THREAD",),
    "select": (r"epoll|EPOLL\w+",),
    "selectors": (r"EpollSelector",),
    "fcntl": (
        r"F_OFD_\w+|F_[GS]ETLEASE|F_NOTIFY|DN_\w+|F_(ADD|GET)_SEALS|F_SEAL_\w+|F_[GS]ETPIPE_SZ",
        r"F_[GS]ETSIG|F_EXLCK|F_SHLCK|FICLONE\w*",
    ),
    "mmap": (r"MAP_(POPULATE|STACK|NORESERVE|DENYWRITE|EXECUTABLE)", r"MADV_(NO)?HUGEPAGE|MADV_DO(NT)?FORK"),
    "socket": (r"AF_(NETLINK|PACKET|VSOCK)|SO_(BINDTODEVICE|PEERCRED|PASSCRED)", r"SOCK_(NONBLOCK|CLOEXEC)"),
    "time": (r"CLOCK_(BOOTTIME|TAI)|clock_settime\w*|pthread_getcpuclockid",),
}
_WHOLE = {module: re.compile("|".join(patterns)) for module, patterns in PATTERNS.items()}
ABSENT = re.compile(r"/(proc|sys|dev/shm)(/|$)")
"""Paths that macOS has not."""


def is_linux_only(module: str, name: str) -> bool:
    return module in _WHOLE and _WHOLE[module].fullmatch(name) is not None
