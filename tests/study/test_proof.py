"""The proof: what is sound passes, and each mistake that labs really made is caught by its claim."""

from __future__ import annotations

from study.mutants import MUTANTS, bench, mutated, sound

from torchstone.study.plan import plan_study
from torchstone.study.prove.proof import prove


def test_a_sound_study_passes() -> None:
    proof = prove(plan_study(sound()))
    wrong = {step.id: [claim.to_dict() for claim in step.broken] for step in proof.steps if step.broken}
    assert not wrong
    assert proof.verdict == "pass"
    assert len({step.fingerprint for step in proof.steps}) == len(proof.steps)


def test_every_mutant_is_caught_by_the_claim_that_is_named_for_it() -> None:
    assert len(MUTANTS) >= 30
    proof = prove(plan_study(mutated()), bench())
    caught = {step.id: [claim.claim for claim in step.broken] for step in proof.steps}
    assert caught.pop("0") == []
    missed = {each.id: caught[each.id] for each in MUTANTS if each.claim not in caught[each.id]}
    assert not missed
    assert proof.verdict == "fail"
