"""Mistakes in a configuration: collected, so that a user sees all at once, then raised as one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchstone._errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake: what it is, where (`file:line`), why, and what to do next."""

    what: str
    where: str
    why: str = ""
    next: str = ""
    line: int | None = None
    """Line in the file, from 1."""
    repair: tuple[str, ...] | None = None
    """The lines that `--fix` puts in the place of that line; None where only a person can decide."""

    def to_dict(self) -> dict[str, object]:
        return {
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "next": self.next,
            "fixable": self.repair is not None,
        }


def raise_all(mistakes: Sequence[Mistake]) -> None:
    """Nothing if there are none; one ConfigError that tells all of them otherwise."""
    if not mistakes:
        return
    if len(mistakes) == 1:
        (only,) = mistakes
        raise ConfigError(only.what, where=only.where, why=only.why, next=only.next)
    lines = [f"{len(mistakes)} mistakes in the configuration"]
    for each in mistakes:
        tail = "; ".join(part for part in (each.why, each.next) if part)
        lines.append(f"  {each.where}: {each.what}" + (f" ({tail})" if tail else ""))
    places = list(dict.fromkeys(each.where for each in mistakes))
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    raise ConfigError("\n".join(lines), where=", ".join(places[:3]) + more)
