"""What speaks against a comparison, as records: confounders refuse it, limits are told beside the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torchstone._registry import Registry
from torchstone.report.numbers import number
from torchstone.study.claim.arms import Arm
from torchstone.study.claim.recorded import FACTS, RecordedRun, same
from torchstone.study.claim.repository import Repository
from torchstone.study.claim.terms import Claim


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against a comparison."""

    name: str
    """Of the rule that found it."""
    kind: str
    """differs (between arms), varies (within one), contradictory, unrecorded or unmet."""
    arms: tuple[str, ...]
    what: str
    """One sentence."""
    fix: str = ""
    refuses: bool = True
    """False: a limit."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "arms": list(self.arms),
            "what": self.what,
            "fix": self.fix,
        }


@dataclass(frozen=True, kw_only=True)
class Case:
    """A claim with what its arms are."""

    claim: Claim
    arms: tuple[Arm, ...]
    repository: Repository

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    def runs(self) -> Iterator[tuple[Arm, RecordedRun]]:
        for arm in self.arms:
            for run in arm.runs:
                yield arm, run

    def declares(self, fact: str) -> bool:
        """Whether the claim says that the arms differ in this fact, or in a key that sets it."""
        names = {fact, fact.replace("_", "-")} | ({"code"} if fact in ("commit", "model") else set())
        return any(
            each in names or any(_overlap(each, key) for key in FACTS[fact].sets)
            for each in self.claim.varies
        )

    def declares_key(self, key: str) -> bool:
        return any(fnmatchcase(key, each) for each in self.claim.varies)

    def budgeted(self, run: RecordedRun) -> bool:
        """Whether the clock that ended the run is what the claim gives all arms equally."""
        return self.claim.budget == "time" and run.ended_by_the_clock

    def ignores(self, key: str) -> bool:
        return any(fnmatchcase(key, each) for each in self.claim.ignores)


@dataclass(frozen=True)
class Rule:
    """One question that every comparison is asked."""

    name: str
    help: str
    """What it refuses, in one sentence."""
    look: Callable[[Case], Iterator[Finding]]


RULES: Registry[Rule] = Registry("confounder")


def rule(name: str, help: str) -> Callable[[Callable[[Case], Iterator[Finding]]], Callable[..., Any]]:
    """Register a function of a case that yields findings."""

    def register(look: Callable[[Case], Iterator[Finding]]) -> Callable[..., Any]:
        RULES.add(Rule(name, help, look))
        return look

    return register


def compared(case: Case, fact: str, name: str, fix: str = "") -> Iterator[Finding]:
    """A fact must be stated once, be the same within each arm and, unless declared, between the arms."""
    yield from contradicted(case, fact, name)
    yield from unstated(case, fact, name)
    known = {arm.name: distinct(arm, fact) for arm in case.arms}
    for arm_name, values in known.items():
        if len(values) > 1:
            what = f"{words(fact)} is not the same in all runs of {arm_name}: {listed(values)}"
            yield Finding(name, "varies", (arm_name,), what, fix)
    if case.declares(fact):
        return
    baseline = known[case.baseline.name]
    others = [
        arm for arm, values in known.items() if values and baseline and not _equal(fact, values, baseline)
    ]
    if others:
        told = "; ".join(f"{listed(values)} in {arm}" for arm, values in known.items())
        yield Finding(name, "differs", (case.baseline.name, *others), f"{words(fact)}: {told}", fix)


def contradicted(case: Case, fact: str, name: str) -> Iterator[Finding]:
    """One run, two values of one quantity. Runs with the same two are told together."""
    groups: dict[tuple[Any, ...], list[tuple[Arm, RecordedRun]]] = {}
    for arm, run in case.runs():
        if stated := dict(run.contradictions()).get(fact):
            groups.setdefault(tuple(dict.fromkeys(each.value for each in stated)), []).append((arm, run))
    for values, found in groups.items():
        _, first = found[0]
        sources = {each.value: each.where for each in reversed(first.statements[fact])}
        told = " and as ".join(f"{shown(value)} ({sources[value]})" for value in values)
        others = listed([run.run_id for _, run in found[1:]])
        what = f"{words(fact)} of {first.run_id} is stated as {told}" + (
            f"; likewise of {others}" if found[1:] else ""
        )
        arms = tuple(dict.fromkeys(arm.name for arm, _ in found))
        yield Finding(name, "contradictory", arms, what, "find out which is true, and state only that")


def unstated(case: Case, fact: str, name: str) -> Iterator[Finding]:
    """Runs that do not state the fact: refused where the fact is required, a limit where it is not."""
    lacking = [arm for arm in case.arms if any(run.get(fact) is None for run in arm.runs)]
    if lacking:
        runs = [run.run_id for arm in lacking for run in arm.runs if run.get(fact) is None]
        what = f"{words(fact)} not recorded for {listed(runs)}"
        fix, refuses = f"record it: {FACTS[fact].help}", FACTS[fact].required
        yield Finding(name, "unrecorded", names(lacking), what, fix, refuses)


def distinct(arm: Arm, fact: str) -> list[Any]:
    """The values in an arm that do not count as equal."""
    values: list[Any] = []
    for run in arm.runs:
        value = run.get(fact)
        if value is not None and not any(same(FACTS[fact], value, each) for each in values):
            values.append(value)
    return values


def names(arms: Iterable[Arm]) -> tuple[str, ...]:
    return tuple(arm.name for arm in arms)


def words(fact: str) -> str:
    return fact.replace("_", " ")


def shown(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) <= 60 else f"{value[:57]}..."
    return str(value).lower() if isinstance(value, bool) else number(value)


def listed(values: Sequence[Any], most: int = 4) -> str:
    told = [shown(value) for value in values[:most]]
    return (
        ", ".join(told) + (f" and {len(values) - most} more" if len(values) > most else "") or "not recorded"
    )


def _equal(fact: str, one: list[Any], other: list[Any]) -> bool:
    return all(any(same(FACTS[fact], a, b) for b in other) for a in one) and len(one) == len(other)


def _overlap(one: str, other: str) -> bool:
    return fnmatchcase(one, other) or fnmatchcase(other, one)
