"""Whether the arms differ in what the claim varies, and in nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torchstone.study.claim.arms import Arm
from torchstone.study.claim.findings import Case, Finding, distinct, listed, names, rule
from torchstone.study.claim.recorded import FACTS, RecordedRun

ABSENT = "absent"
MOST_KEYS = 8
"""Keys that one finding names."""
MAKE_A_DIFFERENCE = (
    "commit", "model", "method", "data", "hardware", "software", "compile_status", "effective_batch",
)  # fmt: skip
"""Facts by which two arms can be different things though their settings are equal."""
Table = Mapping[str, Mapping[str, list[Any]]]
"""Key -> arm -> the different values in its runs."""


@rule("configuration", "Settings differ that the claim does not say it varies.")
def configuration(case: Case) -> Iterator[Finding]:
    lacking = [arm for arm in case.arms if any(not run.config for run in arm.runs)]
    if lacking:
        what = f"no configuration is recorded for {listed(names(lacking))}"
        fix = "state it in the claim file: config = { learning_rate = 6e-4 }"
        yield Finding("configuration", "unrecorded", names(lacking), what, fix)
        return
    table, base = _settings(case), case.baseline.name
    for arm in names(case.arms):
        mixed = [key for key, values in table.items() if len(values[arm]) > 1]
        if mixed:
            what = f"not the same in all runs of {arm}: {_told(mixed, table, (arm,))}"
            yield Finding("configuration", "varies", (arm,), what)
    keys = [key for key in table if _differing(key, table, case) and not case.declares_key(key)]
    if keys:
        others = {arm: None for key in keys for arm in _differing(key, table, case)}
        arms = (base, *others)
        quoted = ", ".join(f'"{key}"' for key in keys[:MOST_KEYS])
        fix = f"make them equal; if the claim is about them, varies = [{quoted}]"
        yield Finding("configuration", "differs", arms, _told(keys, table, arms), fix)


@rule("declared-difference", "The arms do not differ in what the claim varies, or in anything at all.")
def declared_difference(case: Case) -> Iterator[Finding]:
    table, spoken_for, base = _settings(case), _settings(case, covered=True), case.baseline
    for each in case.claim.varies:
        keys = [key for key in spoken_for if fnmatchcase(key, each)]
        is_varied = any(_differing(key, spoken_for, case) for key in keys)
        if not is_varied and not any(_facts_vary(each, arm, case) for arm in case.arms[1:]):
            what = f"the claim varies {each}, which is the same in {listed(names(case.arms))}"
            fix = "was the setting applied? If it was not meant, take it out of varies"
            yield Finding("declared-difference", "unmet", names(case.arms), what, fix)
    for arm in case.arms[1:]:
        is_other = any(distinct(arm, fact) != distinct(base, fact) for fact in MAKE_A_DIFFERENCE)
        if not is_other and not any(arm.name in _differing(key, table, case) for key in table):
            what = f"{arm.name} does not differ from {base.name} in anything that is recorded"
            yield Finding("declared-difference", "unmet", (base.name, arm.name), what)


def _facts_vary(declared: str, arm: Arm, case: Case) -> bool:
    facts = ("commit", "model") if declared == "code" else (declared.replace("-", "_"),)
    return any(name in FACTS and distinct(arm, name) != distinct(case.baseline, name) for name in facts)


def _settings(case: Case, *, covered: bool = False) -> Table:
    """Without the keys that a fact speaks for or that change nothing, unless they are wanted."""
    skipped = set() if covered else {key for _, run in case.runs() for key in run.covered}
    keys = {key for _, run in case.runs() for key in run.config} - skipped
    return {
        key: {arm.name: _values(key, arm.runs) for arm in case.arms}
        for key in sorted(keys)
        if not case.ignores(key)
    }


def _values(key: str, runs: tuple[RecordedRun, ...]) -> list[Any]:
    values: list[Any] = []
    for run in runs:
        value = run.config.get(key, ABSENT)
        if value not in values:
            values.append(value)
    return values


def _differing(key: str, table: Table, case: Case) -> list[str]:
    """Arms whose values are not those of the baseline, in whatever order."""
    base = table[key][case.baseline.name]
    return [
        arm
        for arm, values in table[key].items()
        if len(values) != len(base) or any(value not in base for value in values)
    ]


def _told(keys: list[str], table: Table, arms: tuple[str, ...]) -> str:
    def one(key: str) -> str:
        values = [f"{listed(table[key][arm])}{f' in {arm}' if len(arms) > 1 else ''}" for arm in arms]
        return f"{key}: {', '.join(values)}"

    more = f"; and {len(keys) - MOST_KEYS} more keys" if len(keys) > MOST_KEYS else ""
    return "; ".join(map(one, keys[:MOST_KEYS])) + more
