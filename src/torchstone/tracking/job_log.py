"""What was said about the jobs of a queue: who began one, why it is tried again, how it ended."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert, select

from torchstone.tracking import schema
from torchstone.tracking.rows import iso
from torchstone.tracking.store import Store

_log = schema.job_log


@dataclass(frozen=True)
class LogLine:
    at: str
    """ISO 8601, UTC."""
    level: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class JobLog:
    """Lines about the jobs of one queue."""

    def __init__(self, store: Store, queue: str) -> None:
        self._database, self.queue = store.database, queue

    def say(self, job_id: str, level: str, message: str) -> None:
        row = {"queue": self.queue, "job_id": job_id, "at": time.time(), "level": level, "message": message}
        self._database.write(
            lambda found: found.execute(insert(_log).values(row)), about=f"queue {self.queue}"
        )

    def lines(self, job_id: str) -> list[LogLine]:
        """The oldest first."""
        chosen = select(_log).where(_log.c.queue == self.queue, _log.c.job_id == job_id)
        rows = self._database.read(lambda found: found.execute(chosen.order_by(_log.c.line_id)).all())
        return [LogLine(iso(row.at), row.level, row.message) for row in rows]
