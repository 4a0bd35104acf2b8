"""One registry per kind of thing: frozen records by name, no doubles, helpful on a miss."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from torchstone._errors import UsageError


class Named(Protocol):
    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=Named)


class Registry(Generic[Record]):
    """Records of one `kind` ("optimizer", "check", ...), kept in the order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._records: dict[str, Record] = {}

    def add(self, record: Record) -> Record:
        """Register `record` under `record.name`; a second one of that name is a mistake of ours."""
        if record.name in self._records:
            raise ValueError(f"{self.kind} {record.name!r} is registered twice")
        self._records[record.name] = record
        return record

    def get(self, name: str) -> Record:
        if name in self._records:
            return self._records[name]
        raise UsageError(
            f"there is no {self.kind} named {name!r}",
            why=suggest(name, self._records),
            next=f"choose one of: {', '.join(self._records)}",
        )

    def names(self) -> list[str]:
        return list(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __len__(self) -> int:
        return len(self._records)


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean ...?` for a name that is close to known ones, else an empty string."""
    names = list(known)
    near = dict.fromkeys(
        (*one_slip_away(name, names), *difflib.get_close_matches(name, names, n=3, cutoff=0.6))
    )
    return f"did you mean {' or '.join(repr(each) for each in [*near][:3])}?" if near else ""


def one_slip_away(name: str, known: Iterable[str]) -> list[str]:
    """Known names that one letter makes of `name`: left out, put in, replaced, or swapped with the next."""
    return [each for each in known if _is_one_slip(name, each)]


def _is_one_slip(a: str, b: str) -> bool:
    if abs(len(a) - len(b)) > 1:
        return False
    start = next(
        (at for at, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b))
    )
    a, b = a[start:], b[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])
