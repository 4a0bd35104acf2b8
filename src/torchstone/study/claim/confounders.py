"""All questions that a comparison is asked before its numbers are looked at.

`findings.py` has the record and the question that most facts share; each file of `rules/` asks about one
side. A rule is registered by being written there; docs/publish.md lists them, as a test makes sure.
"""

from __future__ import annotations

from torchstone.study.claim.findings import RULES, Case, Finding, Rule
from torchstone.study.claim.rules import circumstances, code, length, runs, seeds, settings

_SIDES = (runs, seeds, settings, code, circumstances, length)
"""In the order in which findings are told."""


def rules() -> list[Rule]:
    """Every rule, in the order of the sides."""
    return [each for side in _SIDES for each in RULES if each.look.__module__ == side.__name__]


def find_all(case: Case) -> list[Finding]:
    """Everything that speaks against the comparison."""
    return [finding for each in rules() for finding in each.look(case)]
