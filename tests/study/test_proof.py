"""The proof: what is sound passes, and each mistake that labs really made is caught by its claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.mutants import MUTANTS, STEPS, bench, with_mutants
from study.study_texts import write

from torchstone.checks.run import check
from torchstone.study.plan import plan_study
from torchstone.study.prove import trial
from torchstone.study.prove.proof import prove
from torchstone.study.study_file import read_study


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 30
    assert {each.step for each in MUTANTS} == {each.id for each in STEPS} - {"0"}


@pytest.mark.timeout(400)  # some twenty seconds on a quiet machine
def test_a_sound_study_passes_and_every_mutant_is_caught_by_the_claim_that_is_named_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examined = []
    monkeypatch.setattr(trial, "check", lambda *given, **how: examined.append(given) or check(*given, **how))
    proof = prove(plan_study(with_mutants()), bench())
    broken = {each.id: [claim.to_dict() for claim in each.broken] for each in proof.steps}
    assert {each.id: broken[each.id] for each in STEPS} == {each.id: [] for each in STEPS}
    by_id = {each.id: each for each in MUTANTS}
    caught = {each.id: [claim["claim"] for claim in broken[each.id]] for each in MUTANTS}
    assert {id_: claims for id_, claims in caught.items() if by_id[id_].claim not in claims} == {}
    assert proof.verdict == "fail"
    assert len({proof[each.id].fingerprint for each in STEPS}) == len(STEPS)
    own_models = sum(each.model is not None or each.settings is not None for each in MUTANTS)
    shared = {str(each.set) for each in STEPS if any(key.startswith("model.") for key in each.set)}
    assert len(examined) <= own_models + 1 + len(shared), "what several arms share is examined once"


@pytest.mark.timeout(400)  # some ten seconds on a quiet machine
def test_ratio_holds_in_every_step() -> None:
    proof = prove(plan_study(read_study("ratio")))
    wrong = {step.id: [claim.to_dict() for claim in step.broken] for step in proof.steps if step.broken}
    assert not wrong
    assert len({step.fingerprint for step in proof.steps}) == len(proof.steps)


IMAGES = """\
[study]
name = "digits"
kind = "matrix"
[study.set]
model.target = "zoo:lenet5"
data.source = "builtin:digits"
[[axis]]
name = "optimizer"
values.adamw = { optim.name = "adamw" }
values.sgd = { optim.name = "sgd" }
[axis.claims.sgd]
parameters = "+0"
output = "equal"
update = "differs"
changed = ["optimizer"]
"""


def test_a_matrix_over_a_model_of_images(tmp_path: Path) -> None:
    proof = prove(plan_study(read_study(write(tmp_path, IMAGES))))
    assert {each.id: [claim.claim for claim in each.broken] for each in proof.steps} == {
        "adamw": [],
        "sgd": [],
    }
    assert proof["sgd"].parent == "adamw"
    moves = next(each for each in proof["sgd"].claims if each.claim == "moves")
    # batch norm takes the bias before it out; of rounding Adam makes whole steps and plain descent none
    assert "all moved, but features.0.bias" in str(moves.measured)


def test_a_large_model_without_sizes_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchstone.study.prove.proof.UNSCALED_AT_MOST", 1000)
    proof = prove(plan_study(read_study(write(tmp_path, IMAGES))))
    assert proof.verdict == "fail"
    assert "no sizes that could be smaller" in str(proof["adamw"].broken[0].measured)
