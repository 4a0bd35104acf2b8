"""Run the cells of a study, each exactly once, whoever is killed in between.

    cells = enter(plan, store, root)                  # into the table of jobs; known ones keep their state
    ending = run_cells(cells, executor, Budget(max_time_s=3600))
    cells.states()

Several runners may work on one study at once: they share the table. A runner holds a lease on each cell that
it works on and renews it. When it dies its cells are free again, their processes save and end, and the next
runner resumes them from their checkpoints, bit for bit. A result counts only from the holder of the newest
lease.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._files import read_json
from torchstone.study.executor import Executor
from torchstone.study.plan import Plan
from torchstone.study.records import Cell
from torchstone.study.session import LEASE_S, Session, Working
from torchstone.tracking.job_table import DONE, OVER, Job, JobTable, Lease
from torchstone.tracking.run_folder import safe_name
from torchstone.tracking.store import Store
from torchstone.train.signals import TRY_AGAIN, SignalWatch, exit_code_of

MOST_TRIES = 8
"""Claims of one cell that ended badly, after which it counts as failed."""
LOOK_S = 0.05
IDLE_S = 0.5
"""A runner that found nothing to claim leaves the table alone for so long, unless a cell of its own ends."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent. A cell under way when it ends saves its state and is resumed by `continue`."""

    max_time_s: float | None = None
    max_cost: float | None = None
    """In the currency of `cost_per_hour`, over all sessions of the study."""
    cost_per_hour: float | None = None
    """Of one slot."""


@dataclass(frozen=True, kw_only=True)
class CellState:
    """Where one cell stands."""

    cell: Cell
    run_dir: Path
    job: Job

    @property
    def status(self) -> str:
        return self.job.status

    @property
    def result(self) -> dict[str, Any] | None:
        """The `torchstone.train/1` object of a cell that is done."""
        return None if self.job.result is None else self.job.result.get("result")

    @property
    def error(self) -> dict[str, Any] | None:
        return None if self.job.result is None else self.job.result.get("error")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a session of running ended."""

    reason: str
    exit_code: int
    """0: every cell is done; 1: some failed; 75: the budget ended it; 130 or 143: a signal."""


@dataclass
class Cells:
    """The cells of a plan, and the table in which they are."""

    plan: Plan
    store: Store
    root: Path
    table: JobTable

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.plan.cells]

    def states(self) -> list[CellState]:
        """In the plan's order. Only cells that were entered."""
        jobs = {each.job_id: each for each in self.table.jobs(self.ids)}
        return [
            CellState(cell=each, run_dir=run_dir_of(self.root, each), job=jobs[each.id])
            for each in self.plan.cells
            if each.id in jobs
        ]


def run_dir_of(root: Path, cell: Cell) -> Path:
    """`root/5-seed1-0a1b2c3d4e5f`: the same for the same cell, always."""
    return root / f"{safe_name(cell.arm)}-seed{cell.seed}-{cell.id}"


def enter(plan: Plan, store: Store, root: Path, *, needs: Callable[[Cell], int | None] = lambda cell: None,
          trust: bool | None = None) -> Cells:  # fmt: skip
    """Put the plan's cells into the table. `needs` forecasts the memory of a cell, in bytes."""
    cells = known(plan, store, root)
    there = cells.table.standing()
    cells.table.add(
        {
            each.id: {
                "name": each.name,
                "run_dir": str(run_dir_of(root, each).absolute()),
                "settings": named(each).to_json(),
                "memory_bytes": needs(each),
                "trust": trust,
            }
            for each in plan.cells
            if each.id not in there
        }
    )
    return cells


def known(plan: Plan, store: Store, root: Path) -> Cells:
    """The cells of a plan as they stand, nothing entered."""
    return Cells(plan, store, root, JobTable(store, plan.study.name))


def named(cell: Cell) -> Any:
    """The cell's settings, with what the tracker calls its run."""
    told = {"tracking.run_name": safe_name(f"{cell.study}-{cell.arm}-seed{cell.seed}"),
            "tracking.tags": (*cell.settings.tracking.tags, f"study={cell.study}", f"arm={cell.arm}",
                              f"cell={cell.id}")}  # fmt: skip
    return cell.settings.with_values(told, f"study {cell.study}")


def run_cells(
    cells: Cells,
    executor: Executor,
    budget: Budget,
    *,
    hear: Callable[[Cells, Sequence[str]], None] = lambda cells, working: None,
    lease_s: float = LEASE_S,
) -> Ending:
    """Work until every cell is over, or a signal or the budget ends it. `hear` gets ids that are at work."""
    with SignalWatch() as watch:
        session = _Session(cells, executor, budget, lease_s)
        with session.leases.renewed():
            while True:
                why = _stop(watch, session)
                if why is not None:
                    session.stop_all(why.number)
                else:
                    session.fill()
                session.collect()
                hear(cells, session.working)
                if not session.under_way and (why is not None or session.all_over()):
                    break
                time.sleep(LOOK_S)
        return _ending(why, cells)


@dataclass(frozen=True)
class _Why:
    reason: str
    exit_code: int
    number: signal.Signals


def _stop(watch: SignalWatch, session: _Session) -> _Why | None:
    if watch.received is not None:
        return _Why(watch.received.name, exit_code_of(watch.received), watch.received)
    spent = session.over_budget()
    return None if spent is None else _Why(spent, TRY_AGAIN, signal.SIGUSR1)


def _ending(why: _Why | None, cells: Cells) -> Ending:
    if why is not None:
        return Ending(reason=why.reason, exit_code=why.exit_code)
    states = cells.states()
    failed = sum(each.status != DONE for each in states)
    if failed:
        return Ending(reason=f"{failed} of {len(states)} cells failed", exit_code=1)
    return Ending(reason=f"all {len(states)} cells are done", exit_code=0)


class _Session(Session):
    """One runner's work on a study."""

    def __init__(self, cells: Cells, executor: Executor, budget: Budget, lease_s: float) -> None:
        super().__init__(cells.table, executor, lease_s)
        self.cells, self.budget = cells, budget
        self._began = self._claims_from = time.monotonic()

    def claim(self) -> Lease | None:
        if time.monotonic() < self._claims_from:
            return None
        lease = self.table.claim(self.me, seconds=self.lease_s, among=self.cells.ids)
        if lease is None:
            self._claims_from = time.monotonic() + IDLE_S
        return lease

    def ended(self, lease: Lease) -> None:
        self._claims_from = 0.0

    def order_of(self, lease: Lease) -> dict[str, Any]:
        order = dict(lease.job.order)
        return order | {"store": self._store_of(order)}

    def most_tries(self, lease: Lease) -> int:
        return MOST_TRIES

    def completed(self, each: Working, kept: Mapping[str, Any]) -> None:
        if self._store_of(each.lease.job.order) != self.cells.store.address:
            self._adopt(Path(each.lease.job.order["run_dir"]))
        super().completed(each, kept)

    def _store_of(self, order: Mapping[str, Any]) -> str:
        """Where a cell keeps its rows: a file of another machine's cannot be written to safely."""
        if self.executor.shares_store or self.cells.store.folder is None:
            return self.cells.store.address
        return str(Path(order["run_dir"]) / "store.db")

    def _adopt(self, run_dir: Path) -> None:
        """Rows of a cell that kept its own store go into the common one."""
        with Store.open(run_dir / "store.db", readonly=True) as own:
            self.cells.store.adopt(own, read_json(run_dir / "run.json")["run_id"])

    def all_over(self) -> bool:
        standing = self.table.standing()
        return all(standing[each][0] in OVER for each in self.cells.ids)

    def over_budget(self) -> str | None:
        budget = self.budget
        if budget.max_time_s is not None and time.monotonic() - self._began >= budget.max_time_s:
            return f"--max-time {budget.max_time_s:g} s"
        if budget.max_cost is not None and budget.cost_per_hour is not None:
            standing = self.table.standing()
            seconds = sum(standing[each][1] for each in self.cells.ids)
            seconds += sum(each.seconds for each in self.under_way)
            if seconds / 3600 * budget.cost_per_hour >= budget.max_cost:
                return f"--max-cost {budget.max_cost:g}"
        return None
