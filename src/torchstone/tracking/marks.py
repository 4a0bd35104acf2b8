"""What people say about a run after it is made: tags to find it by, and that it must not be relied on.

    add_tags(store, "a1", ["bitter7-50"])
    invalidate(store, "a1", "the validation file was in the training data")
    marks(store)["a1"].invalid                  # why, or None

A mark is an event of the run, so nothing is overwritten: who takes one back adds that he did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchstone._errors import UsageError
from torchstone.tracking.rows import Event, RunRow
from torchstone.tracking.store import Store

TAG, UNTAG, INVALID, VALID = "tagged", "untagged", "invalidated", "revalidated"
PUBLISHED = "published"
"""A page rests on the run; the event says which."""
CONFIGURED = "tracking.tags"
"""The knob that gives tags at the start."""


@dataclass(frozen=True)
class Marks:
    """What holds for a run now."""

    tags: frozenset[str] = frozenset()
    invalid: str | None = None
    """Why the run must not be relied on; None: nobody said so."""


def marks(store: Store, run_ids: Sequence[str] | None = None) -> dict[str, Marks]:
    """Of these runs, or of all."""
    runs = store.runs() if run_ids is None else [store.run(run_id) for run_id in run_ids]
    events = store.events_of(TAG, UNTAG, INVALID, VALID)
    return {run.run_id: _marks(run, events.get(run.run_id, ())) for run in runs}


def _marks(run: RunRow, events: Iterable[Event]) -> Marks:
    tags, invalid = set(run.config.get(CONFIGURED) or ()), None
    for event in events:
        if event.kind == TAG:
            tags |= set(event.data["tags"])
        elif event.kind == UNTAG:
            tags -= set(event.data["tags"])
        else:
            invalid = event.data["why"] if event.kind == INVALID else None
    return Marks(frozenset(tags), invalid)


def add_tags(store: Store, run_id: str, tags: Sequence[str]) -> None:
    store.add_event(run_id, TAG, {"tags": _words(tags)})


def remove_tags(store: Store, run_id: str, tags: Sequence[str]) -> None:
    """Take tags away; one that the run has not is an error."""
    has = marks(store, [run_id])[run_id].tags
    unknown = sorted(set(tags) - has)
    if unknown:
        raise UsageError(
            f"run {run_id} has no tag {', '.join(unknown)}", why=f"it has {', '.join(sorted(has)) or 'none'}"
        )
    store.add_event(run_id, UNTAG, {"tags": _words(tags)})


def invalidate(store: Store, run_id: str, why: str) -> None:
    """Say that a run must not be relied on."""
    if not why.strip():
        raise UsageError("an invalid run needs a reason", next="--why 'what is wrong with it'")
    store.add_event(run_id, INVALID, {"why": why.strip()})


def revalidate(store: Store, run_id: str, why: str) -> None:
    """Take an `invalidate` back."""
    if marks(store, [run_id])[run_id].invalid is None:
        raise UsageError(f"run {run_id} was not invalidated", next="torchstone runs show RUN")
    store.add_event(run_id, VALID, {"why": why.strip()})


def _words(tags: Sequence[str]) -> list[str]:
    for tag in tags:
        if not tag.strip() or tag != tag.strip() or "," in tag:
            raise UsageError(f"{tag!r} is no tag", why="a tag is a word without commas or blanks around it")
    return list(tags)
