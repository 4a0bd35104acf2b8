"""What a kind of job is: how a wish becomes an order, and how the order is carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchstone._errors import UsageError
from torchstone._registry import suggest

if TYPE_CHECKING:
    from torchstone.tracking.store import Store

Order = Mapping[str, Any]
"""Plain data: what a worker of any process, now or next week, needs to know."""


@dataclass(frozen=True)
class Ended:
    """How a job's own process says that it ended."""

    status: str
    """completed, interrupted or failed."""
    exit_code: int
    record: dict[str, Any]
    """What the command of the same name prints with `--json`, or as much as is worth keeping."""


@dataclass(frozen=True)
class JobKind:
    """One kind of job."""

    name: str
    help: str
    keys: tuple[str, ...]
    """What its configuration may hold."""
    prepare: Callable[[Mapping[str, Any], Store], dict[str, Any]]
    """The order for a configuration; refuses at once what would fail later."""
    run: Callable[[Order], Ended]
    """Carries an order out, in the job's own process and folder (`run_dir`)."""


def require_keys(config: Mapping[str, Any], known: Iterable[str], needed: Iterable[str] = ()) -> None:
    """UsageError for a key that this kind of job does not know, or one that it lacks."""
    allowed = list(known)
    for key in config:
        if key not in allowed:
            why = suggest(key, allowed) or f"it knows {', '.join(allowed)}"
            raise UsageError(f"this kind of job knows no key {key!r}", why=why)
    if missing := [each for each in needed if config.get(each) in (None, "")]:
        raise UsageError(f"the job lacks {', '.join(missing)}", why=f"it knows {', '.join(allowed)}")
