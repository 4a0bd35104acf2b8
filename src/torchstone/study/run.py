"""The study job: a pipe of plain functions, from a file to cells that were run.

read -> expand -> drop_impossible -> select -> prove -> enter -> run_cells

proof = check(StudyJob("widths", steps=("0", "1")))
outcome = run(StudyJob("widths"), How(jobs=2))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone.study.left_open import settled
from torchstone.study.plan import Plan, base_of, plan_study, select
from torchstone.study.records import Cell
from torchstone.study.study_file import read_study

if TYPE_CHECKING:
    from torchstone.study.cells import Budget, Cells, CellState, Ending
    from torchstone.study.prove.proof import Proof
    from torchstone.study.summary import Summary


@dataclass(frozen=True)
class StudyJob:
    """Which study, which part of it, and what it starts from."""

    study: str
    """Name, or path of a .toml file."""
    only: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    config: Path | None = None
    """A file of knobs in place of the study's base."""
    overrides: tuple[tuple[str, str | None], ...] = ()
    """(key, text) for all arms."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Where CONFIG_ variables are looked for."""


def planned(job: StudyJob) -> Plan:
    """Every cell that the job means, and what was dropped on the way."""
    study = read_study(job.study)
    base = base_of(study, file=job.config, overrides=job.overrides, environ=job.environ)
    plan = plan_study(study, base)  # expand, drop_impossible
    return select(plan, only=job.only, steps=job.steps, seeds=job.seeds)


def check(job: StudyJob, progress: Callable[[str], None] | None = None) -> Proof:
    """Prove every chosen arm; nothing is written and nothing costs."""
    from torchstone.study.prove.proof import prove

    return prove(planned(job), progress=progress)


@dataclass(frozen=True, kw_only=True)
class How:
    """How the cells are run."""

    root: Path | None = None
    """Folder of the cells' run folders; None: `runs/<study>`. The store lies beside it."""
    where: str = "local"
    """local, slurm, ray, or ray://HOST:PORT."""
    jobs: int | None = None
    """Cells at a time; None: one, or one for each GPU."""
    device: str | None = None
    budget: Budget | None = None
    proven: bool = False
    """Spare the proof, for a study that was proven elsewhere."""
    retry_failed: bool = False
    trust: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of running a study."""

    plan: Plan
    states: list[CellState]
    ending: Ending | None
    """None: nothing was run, for the proof does not hold."""
    proof: Proof | None = None
    """None: nothing new was to be proven."""


def run(
    job: StudyJob,
    how: How | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    hear: Callable[[Cells, Sequence[str]], None] = lambda cells, working: None,
) -> Outcome:
    """Run what is not done yet of a study. Cells that were interrupted go on from their checkpoints."""
    from torchstone.study.cells import Budget, enter, known, run_cells
    from torchstone.study.executor import open_executor, refuse_to_send_secrets
    from torchstone.study.prove.proof import prove
    from torchstone.tracking.store import Store

    how, plan = how or How(), planned(job)
    root = root_of(plan, how.root)
    plan = settled(plan, root, where=how.where, device=how.device, trust=how.trust)
    with Store.open(store_of(root)) as store:
        refuse_to_send_secrets(store, how.where)
        cells = known(plan, store, root)
        new = {each.id for each in plan.cells} - {each.cell.id for each in cells.states()}
        proof = prove(plan, progress=progress) if new and not how.proven else None
        if proof is not None and proof.verdict not in ("pass", "warn"):
            return Outcome(plan=plan, states=cells.states(), ending=None, proof=proof)
        cells = enter(plan, store, root, trust=how.trust, needs=_memory(proof))
        if how.retry_failed:
            cells.table.again(cells.ids)
        executor = open_executor(how.where, jobs=how.jobs, device=how.device)
        try:
            ending = run_cells(cells, executor, how.budget or Budget(), hear=hear)
        finally:
            executor.close()
        return Outcome(plan=plan, states=cells.states(), ending=ending, proof=proof)


def _memory(proof: Proof | None) -> Callable[[Cell], int | None]:
    """At least so many bytes a cell takes: weights, gradients and two moments in fp32."""
    known = {each.id: each.parameters for each in proof.steps} if proof is not None else {}

    def needs(cell: Cell) -> int | None:
        parameters = known.get(cell.arm)
        return None if parameters is None else 16 * parameters

    return needs


def report(job: StudyJob, root: Path | None = None) -> Summary:
    """What a study has found so far; the sizes of its models come from the meta device."""
    from torchstone.study.prove.bench import Bench
    from torchstone.study.prove.proof import full_sizes
    from torchstone.study.summary import summarise

    outcome = stand(job, root)
    sizes, _ = full_sizes(outcome.plan, Bench(), lambda line: None)
    return summarise(outcome, sizes)


def stand(job: StudyJob, root: Path | None = None) -> Outcome:
    """How far a study has come; nothing is written."""
    from torchstone.study.cells import known
    from torchstone.tracking.store import Store

    plan = planned(job)
    root = root_of(plan, root)
    with Store.open(store_of(root), readonly=True) as store:
        return Outcome(plan=plan, states=known(plan, store, root).states(), ending=None)


def root_of(plan: Plan, root: Path | None) -> Path:
    return root or Path("runs") / plan.study.name


def store_of(root: Path) -> str:
    from torchstone.tracking.store import default_store

    return default_store(root)
