"""Whether the code of the runs is known, kept, and the same."""

from __future__ import annotations

from collections.abc import Iterator

from torchstone.study.claim.findings import (
    Case,
    Finding,
    compared,
    contradicted,
    listed,
    names,
    rule,
    unstated,
)


@rule("code", "Commit or model code differs.")
def code(case: Case) -> Iterator[Finding]:
    for fact in ("commit", "model"):
        # Whether a commit is recorded at all is asked by the next rule.
        yield from (
            each for each in compared(case, fact, "code") if fact == "model" or each.kind != "unrecorded"
        )


@rule("commit", "No commit is recorded, or it does not exist in the repository.")
def commit(case: Case) -> Iterator[Finding]:
    yield from unstated(case, "commit", "commit")
    commits = sorted({run.get("commit") for _, run in case.runs()} - {None})
    if not commits:
        return
    if not case.repository.is_there:
        what = "whether the commit exists was not looked up: there is no git repository here"
        fix = "[claim] repository = PATH"
        yield Finding("commit", "unmet", names(case.arms), what, fix, refuses=False)
        return
    gone = [each for each in commits if not case.repository.holds(each)]
    if gone:
        owners = [arm for arm in case.arms if any(run.get("commit") in gone for run in arm.runs)]
        what = f"the repository has no commit {listed(gone)}"
        fix = "fetch it, or say where it is: [claim] repository = PATH"
        yield Finding("commit", "unmet", names(owners), what, fix)
    elif any(case.repository.is_published(each) is False for each in commits):
        what = "no branch of a remote holds the commit, so nobody else can read the code"
        yield Finding("commit", "unmet", names(case.arms), what, "git push", refuses=False)


@rule("cleanliness", "Changes were not committed, so no commit holds the code that ran.")
def cleanliness(case: Case) -> Iterator[Finding]:
    yield from contradicted(case, "clean", "cleanliness")
    if all(run.get("commit") is not None for _, run in case.runs()):
        yield from unstated(case, "clean", "cleanliness")
    for arm in case.arms:
        dirty = [run.run_id for run in arm.runs if run.get("clean") is False]
        if dirty:
            what = f"uncommitted code in {listed(dirty)}"
            yield Finding("cleanliness", "unmet", (arm.name,), what, "commit, and run again")
