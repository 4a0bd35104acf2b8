"""Search for good knobs: Optuna proposes, the engine trains, what does not promise is stopped early.

result = run(SearchJob("lr", settings, space, trials=20), How(jobs=2))
result.best_params, result.best_value

A trial is a training run with a folder, a checkpoint and rows in the store, as every run is. Its validations
are read from the store while it trains, and Optuna's pruner says whether it goes on. Optuna's tables lie in
the same store. Whoever is killed, the same command goes on: a trial whose process died is continued from its
checkpoint, up to `MOST_TRIES` times, and then counts as failed. With one worker a search that was stopped and
went on proposes what an uninterrupted one would.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import ConfigError, MissingExtra, UsageError
from torchstone._files import write_text
from torchstone._registry import suggest
from torchstone.config.resolve import Resolved
from torchstone.report.run_info import direction
from torchstone.study.executor import Executor, LocalExecutor, Running
from torchstone.study.proposals import PRUNERS, SAMPLERS, importances, optuna_itself, pruner_of, sampler_of
from torchstone.study.search_store import open_storage
from torchstone.study.session import STOPPED
from torchstone.study.slots import Wait
from torchstone.study.space import Space
from torchstone.tracking.run_folder import RunFolder, locked_file, safe_name
from torchstone.tracking.store import Store, default_store
from torchstone.train.config import SECTIONS
from torchstone.train.signals import SignalWatch, exit_code_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger(__name__)

SCHEMA = "torchstone.search/1"
MOST_TRIES = 3
"""Starts of one trial that ended without an answer, after which it counts as failed."""
LOOK_S = 0.05
READ_S = 0.25
"""Between two looks into the store for the validations of a running trial."""
BEST = "best.defconfig"
LOCK = "search.lock"


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """What to search."""

    name: str
    space: Space
    """Varies the knobs of its `base`."""
    trials: int
    """In all, those of earlier sessions included."""
    metric: str = "val/loss"
    """Its best value of a run is what is optimised; the kind of metric says in which direction."""
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class How:
    """How the trials are run."""

    root: Path | None = None
    """Folder of the trials' run folders; None: `runs/<name>`. The store lies beside them."""
    jobs: int = 1
    device: str | None = None
    trust: bool | None = None
    max_time_s: float | None = None
    executor: Executor | None = None
    """None: processes of this machine."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What was found so far."""

    name: str
    metric: str
    mode: str
    """min or max."""
    trials: list[dict[str, Any]]
    """number, state, value, params, validations, run_dir, error; in the order in which they were proposed."""
    importances: dict[str, float]
    """Key -> share of what the knob explains; empty with too few trials."""
    root: str
    reason: str
    exit_code: int
    files: list[str] = field(default_factory=list)

    @property
    def completed(self) -> list[dict[str, Any]]:
        return [each for each in self.trials if each["state"] == "complete"]

    @property
    def counts(self) -> dict[str, int]:
        """How many trials ended in each way."""
        states = Counter(each["state"] for each in self.trials)
        return {each: states[each] for each in ("complete", "pruned", "fail")}

    @property
    def best_so_far(self) -> list[float]:
        """At each completed trial."""
        return list(accumulate((each["value"] for each in self.completed), _better(self.mode)))

    @property
    def best(self) -> dict[str, Any] | None:
        return _better(self.mode)(self.completed, key=lambda each: each["value"], default=None)

    @property
    def best_params(self) -> dict[str, Any] | None:
        return None if self.best is None else self.best["params"]

    @property
    def best_value(self) -> float | None:
        return None if self.best is None else self.best["value"]

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.search/1` object."""
        return {
            "schema": SCHEMA, "name": self.name, "metric": self.metric, "mode": self.mode,
            "best_params": self.best_params, "best_value": self.best_value, "best": self.best,
            "n_trials": len(self.trials), "all_trials": self.trials, "importances": self.importances,
            "root": self.root, "files": self.files, "reason": self.reason, "exit_code": self.exit_code,
        }  # fmt: skip


def run(
    job: SearchJob, how: How | None = None, *, hear: Callable[[SearchResult], None] = lambda found: None
) -> SearchResult:
    """Search until `job.trials` are over, or a signal or the clock ends it with all trials saved.

    `hear` is told each time a trial ends. exit_code: 0 found something, 1 every trial failed, 75 the time is
    over, 130 and 143 a signal.
    """
    how = how or How()
    _refuse(job)
    root = how.root or Path("runs") / safe_name(job.name)
    root.mkdir(parents=True, exist_ok=True)
    executor = how.executor or LocalExecutor(how.jobs, how.device)
    # Two searches of one name would start each other's trials again.
    with locked_file(root / LOCK), Store.open(default_store(root / "trial")) as store:
        study = _study(job, store)
        session = _Session(job, how, root, store, study, executor)
        try:
            with SignalWatch() as watch:
                reason, code = session.work(watch, hear)
        finally:
            executor.close()
        return _kept(told(job, study, root, reason, code), job, root)


def _kept(found: SearchResult, job: SearchJob, root: Path) -> SearchResult:
    """The best knobs as a defconfig, and the pictures; a finished search does not die of a picture."""
    files = []
    if found.best is not None:
        write_text(root / BEST, best_defconfig(job.space, found.best["params"]))
        files.append(str(root / BEST))
    try:
        from torchstone.study.search_pictures import write_pictures

        files += write_pictures(found, root)
    except MissingExtra as missing:
        log.warning("no pictures: %s; %s", missing.what, missing.next)
    return replace(found, files=files)


def _refuse(job: SearchJob) -> None:
    for what, name, known in (("sampler", job.sampler, SAMPLERS), ("pruner", job.pruner, PRUNERS)):
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}", why=suggest(name, known),
                             next=f"choose one of: {', '.join(known)}")  # fmt: skip
    if job.trials < 1:
        raise UsageError(f"{job.trials} trials find nothing", next="--trials 20")


# --- Optuna ---------------------------------------------------------------------------------------------


def _study(job: SearchJob, store: Store) -> Study:
    optuna = optuna_itself()
    mode = direction(job.metric)
    study: Study = optuna.create_study(
        study_name=job.name,
        storage=open_storage(store),
        direction="minimize" if mode == "min" else "maximize",
        pruner=pruner_of(job.pruner),
        load_if_exists=True,
    )
    described = {"metric": job.metric, "space": job.space.to_dict(), "base": job.space.base.hash}
    known = study.user_attrs.get("job")
    if known is None:
        study.set_user_attr("job", described)
    elif known != json.loads(json.dumps(described)):
        differing = [key for key in described if known.get(key) != json.loads(json.dumps(described[key]))]
        raise ConfigError(
            f"the search {job.name!r} was begun with another {' and '.join(differing)}",
            where=store.where,
            why="its trials cannot be compared with new ones",
            next="go on with what it was begun with, or choose another --name",
        )
    return study


# --- the loop -------------------------------------------------------------------------------------------


@dataclass
class _Working:
    trial: Trial
    running: Running
    run_dir: Path
    tries: int
    reported: int = 0
    looked: float = 0.0
    pruned: bool = False
    stopped: bool = False


class _Session:
    """One session of work on a search."""

    def __init__(
        self, job: SearchJob, how: How, root: Path, store: Store, study: Study, executor: Executor
    ) -> None:
        self.job, self.how, self.root = job, how, root
        self.store, self.study, self.executor = store, study, executor
        self.under_way: list[_Working] = []
        states = optuna_itself().trial.TrialState
        self.states = states
        known = study.get_trials(deepcopy=False)
        self.begun = len(known)
        self.orphans = [each.number for each in known if each.state == states.RUNNING]

    def work(self, watch: SignalWatch, hear: Callable[[SearchResult], None]) -> tuple[str, int]:
        began, why = time.monotonic(), ("", 0)
        while True:
            over = self.how.max_time_s is not None and time.monotonic() - began >= self.how.max_time_s
            if watch.received is not None:
                why = watch.received.name, exit_code_of(watch.received)
            elif over:
                why = f"--max-time {self.how.max_time_s:g} s", 75
            if why[1]:
                self._stop_all()
            else:
                self._fill()
            self._look()
            if self._collect():
                hear(told(self.job, self.study, self.root, "at work"))
            if not self.under_way and (why[1] or self._all_begun()):
                break
            time.sleep(LOOK_S)
        if why[1]:
            return why
        done = self.study.get_trials(deepcopy=False, states=(self.states.COMPLETE,))
        return (f"{self.job.trials} trials are over", 0) if done else ("no trial was completed", 1)

    # --- starting ---

    def _all_begun(self) -> bool:
        return not self.orphans and self.begun >= self.job.trials

    def _fill(self) -> None:
        while len(self.under_way) < self.executor.slots and not self._all_begun():
            trial = self._next()
            tries = trial.user_attrs.get("tries", 0)
            if tries >= MOST_TRIES:
                self._fail(trial, f"its process died {tries} times")
                continue
            if not self._start(trial, tries):
                return

    def _next(self) -> Trial:
        """A trial that was left by an earlier session, else a new proposal."""
        if self.orphans:
            return self._again(self.orphans.pop(0))
        self.study.sampler = sampler_of(self.job.sampler, self.job.seed, self.begun)
        trial = self.study.ask()
        self.begun += 1
        return self._drawn(trial)

    def _again(self, number: int) -> Trial:
        """The handle of a trial that is under way."""
        frozen = self.study.get_trials(deepcopy=False)[number]
        trial: Trial = optuna_itself().trial.Trial(self.study, frozen._trial_id)
        # It may have been killed between the two writes of `_next`.
        return trial if "values" in trial.user_attrs else self._drawn(trial)

    def _drawn(self, trial: Trial) -> Trial:
        values = self.job.space.draw(trial)
        trial.set_user_attr("values", {key: _plain(value) for key, value in values.items()})
        return trial

    def _start(self, trial: Trial, tries: int) -> bool:
        run_dir = (self.root / f"trial-{trial.number:04d}").absolute()
        try:
            settings = self._settings(trial)
        except ConfigError as error:
            self._fail(trial, str(error))
            return True
        running = self.executor.start(
            {
                "name": f"{self.job.name}-{trial.number:04d}",
                "run_dir": str(run_dir),
                "settings": settings.to_json(),
                "store": self.store.address,
                "trust": self.how.trust,
            }
        )
        if isinstance(running, Wait):
            self.orphans.insert(0, trial.number)
            return False
        trial.set_user_attr("tries", tries + 1)
        trial.set_user_attr("run_dir", str(run_dir))
        self.under_way.append(_Working(trial, running, run_dir, tries + 1))
        return True

    def _settings(self, trial: Trial) -> Resolved:
        name, base = safe_name(f"{self.job.name}-{trial.number:04d}"), self.job.space.base
        told: dict[str, Any] = {"tracking.run_name": name}
        told["tracking.tags"] = (*base.tracking.tags, f"search={self.job.name}", f"trial={trial.number}")
        if base.sources["tracking.dashboard"] == "default":
            told["tracking.dashboard"] = False
        source = f"search {self.job.name}, trial {trial.number}"
        return self.job.space.settings(trial.user_attrs["values"] | told, source).select(SECTIONS)

    # --- watching ---

    def _look(self) -> None:
        for each in self.under_way:
            if not (each.pruned or each.stopped) and time.monotonic() - each.looked > READ_S:
                each.looked = time.monotonic()
                self._report(each)

    def _report(self, each: _Working) -> None:
        """New validations go to the pruner; the n-th of one trial is compared with the n-th of others."""
        for number, value in enumerate(validations(self.store, each.run_dir, self.job.metric), 1):
            if number <= each.reported or each.pruned:
                continue
            each.reported = number
            each.trial.report(value, number)
            if each.trial.should_prune():
                each.pruned = True
                each.running.stop(signal.SIGTERM)

    def _stop_all(self) -> None:
        for each in self.under_way:
            if not each.stopped:
                each.stopped = True
                each.running.stop(signal.SIGTERM)

    # --- ending ---

    def _collect(self) -> int:
        ended = 0
        for each in list(self.under_way):
            outcome = each.running.outcome()
            if outcome is None:
                continue
            self.under_way.remove(each)
            ended += 1
            self._settle(each, outcome)
        return ended

    def _settle(self, each: _Working, outcome: Mapping[str, Any]) -> None:
        status = outcome["status"]
        if status in ("completed", "interrupted") and not each.stopped:
            self._report(each)
        if each.pruned:
            self.study.tell(each.trial.number, state=self.states.PRUNED)
        elif status == "completed":
            self._tell_value(each)
        elif each.stopped and (status in ("interrupted", "died") or outcome["exit_code"] in STOPPED):
            each.trial.set_user_attr("tries", each.tries - 1)  # it goes on in the next session
        elif status in ("interrupted", "died") or outcome["exit_code"] == 75:
            log.warning("trial %d is started again: %s", each.trial.number, _what(outcome))
            self.orphans.append(each.trial.number)
        else:
            self._fail(each.trial, _what(outcome))

    def _tell_value(self, each: _Working) -> None:
        values = validations(self.store, each.run_dir, self.job.metric)
        if not values:
            self._fail(
                each.trial, f"no {self.job.metric} was measured; hold data out, or name another --metric"
            )
            return
        self.study.tell(each.trial.number, _better(direction(self.job.metric))(values))

    def _fail(self, trial: Trial, why: str) -> None:
        log.warning("trial %d failed: %s", trial.number, why)
        trial.set_user_attr("error", why)
        self.study.tell(trial.number, state=self.states.FAIL)


def _better(mode: str) -> Any:
    """`min` or `max`."""
    return min if mode == "min" else max


def validations(store: Store, run_dir: Path, metric: str) -> list[float]:
    """The finite values of a metric in the order of the steps; none while the run has not begun."""
    if not RunFolder.exists(run_dir):
        return []
    rows = store.metrics(RunFolder.open(run_dir).run_id, metric)
    return [row.value for row in rows if row.value is not None and abs(row.value) < float("inf")]


def _what(outcome: Mapping[str, Any]) -> str:
    return str((outcome.get("error") or {}).get("what") or outcome["status"])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# --- what came of it ------------------------------------------------------------------------------------


def told(job: SearchJob, study: Study, root: Path, reason: str, exit_code: int | None = None) -> SearchResult:
    """The state of a search as plain values. `exit_code` None: it is at work, without importances yet."""
    trials = [_trial(each) for each in study.get_trials(deepcopy=False)]
    return SearchResult(
        name=job.name, metric=job.metric, mode=direction(job.metric), trials=trials, root=str(root),
        importances={} if exit_code is None else importances(study), reason=reason,
        exit_code=exit_code or 0,
    )  # fmt: skip


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state.name == "COMPLETE" else None,
        "params": trial.user_attrs.get("values", dict(trial.params)),
        "validations": list(trial.intermediate_values.values()),
        "run_dir": trial.user_attrs.get("run_dir"),
        "error": trial.user_attrs.get("error"),
    }


def best_defconfig(space: Space, params: Mapping[str, Any]) -> str:
    """What differs from the defaults in the best trial, as a defconfig."""
    from torchstone.config.kconfig import Tree
    from torchstone.study.config import SECTIONS as EVERY

    settings = space.settings(params, "search")
    known = settings.plain
    tree = Tree(EVERY)
    return tree.minimal_text({key: known.get(key, knob.default) for key, knob in tree.knobs.items()})
