"""What holds for every study that is shipped; the whole proofs are a campaign (`make campaign`)."""

from __future__ import annotations

from collections import Counter

import pytest

from torchstone.study.plan import cell_id, plan_study
from torchstone.study.prove.proof import prove
from torchstone.study.study_file import available, read_study

NAMES = [name for name, _ in available()]
NOTICED = {"output", "update", "sparsity"}
"""Claims of which a step needs one: what it is about is seen somewhere."""


@pytest.mark.parametrize("name", NAMES)
def test_it_resolves_and_no_two_arms_are_one(name: str) -> None:
    plan = plan_study(read_study(name))
    assert plan.study.name == name and plan.study.describe
    times = Counter(cell_id(each.settings) for each in plan.arms)
    assert [each.id for each in plan.arms if times[cell_id(each.settings)] > 1] == []
    assert len({each.id for each in plan.cells}) == len(plan.cells)


@pytest.mark.parametrize("name", [each for each in NAMES if read_study(each).kind == "ablation"])
def test_each_step_is_explained_and_claims_what_it_is_about(name: str) -> None:
    for step in read_study(name).steps:
        assert step.name and step.describe, step.id
        if step.parent is not None:
            assert step.set, step.id
            assert "parameters" in step.claims, step.id
            assert NOTICED & set(step.claims), step.id


@pytest.mark.campaign
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds(name: str) -> None:
    proof = prove(plan_study(read_study(name)))
    assert {step.id: [claim.to_dict() for claim in step.broken] for step in proof.steps if step.broken} == {}
