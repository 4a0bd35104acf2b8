"""Small alterations of a run before it is recorded, by which a comparison becomes confounded."""

from __future__ import annotations

import copy
from typing import Any

from study_claim.recordings import Change, Run


def setting(key: str, value: Any) -> Change:
    return lambda run: run.config.update({key: value})


def fact(path: str, value: Any) -> Change:
    def change(run: Run) -> None:
        *outer, last = path.split(".")
        inside = run.facts
        for name in outer:
            inside = inside[name]
        inside[last] = value

    return change


def ending(**values: Any) -> Change:
    return lambda run: run.summary.update(values)


def attribute(name: str, value: Any) -> Change:
    return lambda run: setattr(run, name, value)


def one_of_them(change: Change) -> Change:
    return lambda run: change(run) if run.run_id.endswith("-1") else None


def all_of(*changes: Change) -> Change:
    return lambda run: [change(run) for change in changes]


def resumed(path: str, value: Any) -> Change:
    """The run went on in a second session, in which a fact was another one."""

    def change(run: Run) -> None:
        first = copy.deepcopy(run.facts)
        fact(path, value)(run)
        run.sessions.insert(0, first)

    return change


STOPPED = all_of(ending(steps=80, tokens=10_160), attribute("metric_step", 80))
"""At step 80 of 100."""
LONGER = all_of(ending(tokens=None, steps=200), fact("planned_steps", 200), attribute("metric_step", 200))
