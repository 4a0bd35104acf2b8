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
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(repr(each) for each in near)}?" if near else ""
