"""Every error that torchstone raises on purpose, with the exit code it stands for.

TorchstoneError                     1  a verdict failed or could not be reached
├── UsageError                      2  wrong flag, unknown name
│   └── ConfigError                 2  unknown or impossible configuration value
├── ModelError                      1  the model cannot be found, built or called
├── UntrustedCode                   3  stranger's code, and nobody said --trust
├── DataError                       4  data or tokenizer cannot be used
├── EnvironmentProblem              5  this machine lacks something
│   └── MissingExtra                5  an optional dependency is not installed
├── TryAgain                       75  disk, network, lock: later it may work
│   ├── Offline                    75
│   ├── RunLocked                  75
│   └── DiskFull                   75
├── OutOfMemory                    77
└── Interrupted               130/143  stopped by a signal, state saved

An error says what happened, where, why, and the next command to type.
"""

from __future__ import annotations

import errno


class TorchstoneError(Exception):
    """Base of the tree: `what` happened, `where`, `why`, and what to type `next`."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.next = next

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {name}: {text}" for name, text in self._details() if text]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (isolated worker, study cells); keyword-only fields must survive.
        return (_rebuild, (type(self), self.to_dict()))

    def _details(self) -> list[tuple[str, str]]:
        return [("where", self.where), ("why", self.why), ("next", self.next)]

    def to_dict(self) -> dict[str, str]:
        """The `torchstone.error/1` object that `--json` prints."""
        return {
            "schema": "torchstone.error/1",
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "next": self.next,
        }


def _rebuild(kind: type[TorchstoneError], fields: dict[str, str]) -> TorchstoneError:
    return kind(fields["what"], where=fields["where"], why=fields["why"], next=fields["next"])


def in_one_line(error: BaseException, limit: int = 300) -> str:
    """`Type: first line of the message`, for a table or the `why` of another error; messages may be empty."""
    text = (error.what if isinstance(error, TorchstoneError) else str(error)).strip()
    name = type(error).__name__
    return f"{name}: {text.splitlines()[0]}"[:limit] if text else name


class UsageError(TorchstoneError, ValueError):
    """A wrong flag, an unknown name, a combination that cannot be."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value that is unknown, impossible or without effect."""


class ModelError(TorchstoneError):
    """The model cannot be found, built or called."""


class UntrustedCode(TorchstoneError):
    """Stranger's code would have to run in this process, or tried something forbidden."""

    exit_code = 3


class DataError(TorchstoneError, ValueError):
    """Data or a tokenizer that cannot be used."""

    exit_code = 4


class EnvironmentProblem(TorchstoneError):
    """This machine lacks something that the command needs."""

    exit_code = 5


class MissingExtra(EnvironmentProblem, ImportError):
    """An optional dependency is not installed; `next` holds the pip line."""


class TryAgain(TorchstoneError):
    """A passing condition: disk, network, a locked run."""

    exit_code = 75


class Offline(TryAgain):
    """The network did not answer."""


class RunLocked(TryAgain):
    """Another process holds the run."""


class DiskFull(TryAgain):
    """No space left where the run writes."""


class OutOfMemory(TorchstoneError):
    """The device or the host has too little memory for this job."""

    exit_code = 77


class Interrupted(TorchstoneError):
    """A signal ended the job; the state is saved. `exit_code` is 128 + signal number."""

    def __init__(self, what: str, *, signal_number: int = 2, **details: str) -> None:
        super().__init__(what, **details)
        self.exit_code = 128 + signal_number


_FULL = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT")}
_SICK = {getattr(errno, name, None) for name in ("EIO", "EROFS", "EFBIG", "ESTALE", "ENXIO", "ENODEV")}


def disk_trouble(error: BaseException) -> TryAgain | None:
    """The error to show for one of the disk's, whoever met it; None for everything else."""
    if not isinstance(error, OSError) or error.errno not in _FULL | _SICK:
        return None
    kind, what = (DiskFull, "no space left") if error.errno in _FULL else (TryAgain, "the disk does not work")
    return kind(
        what,
        where=str(error.filename or ""),
        why=error.strerror or str(error),
        next="free or mend the disk and repeat the command; a training run goes on with --resume auto",
    )
