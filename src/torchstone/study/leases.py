"""Leases that are kept while their jobs are worked on, from a thread: a slow worker must not lose them.

leases = KeptLeases(table, seconds=30)
with leases.renewed():
    leases.keep(lease)                # from before the job is started, for a start may be slow
    leases.is_lost(lease)             # another worker has the job by now
    leases.let_go(lease)              # before the table is told how the job ended
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torchstone.tracking.job_table import JobTable, Lease

log = logging.getLogger(__name__)


class KeptLeases:
    """Those of one worker. Each is renewed when a third of its time is over."""

    def __init__(self, table: JobTable, *, seconds: float) -> None:
        self._table, self._seconds = table, seconds
        self._held: list[Lease] = []
        self._lost: set[tuple[str, int]] = set()

    def keep(self, lease: Lease) -> None:
        self._held.append(lease)

    def let_go(self, lease: Lease) -> None:
        self._held.remove(lease)
        self._lost.discard(_key(lease))

    def is_lost(self, lease: Lease) -> bool:
        return _key(lease) in self._lost

    def renew(self, leases: Sequence[Lease]) -> None:
        """Keep these for longer, now."""
        gone = self._table.renew([each for each in leases if not self.is_lost(each)], seconds=self._seconds)
        self._lost.update(map(_key, gone))

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew what is held while the block lasts."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._seconds / 3):
                try:
                    self.renew(list(self._held))
                except Exception as error:  # the store may be back before the leases end
                    log.warning("leases could not be renewed: %s", error)

        thread = threading.Thread(target=renew, name="torchstone-leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _key(lease: Lease) -> tuple[str, int]:
    return lease.job_id, lease.token
