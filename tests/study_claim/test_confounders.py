"""Every confounder is refused by its name, and a comparison without one is not."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from study_claim.changes import (
    LONGER,
    STOPPED,
    all_of,
    attribute,
    ending,
    fact,
    one_of_them,
    resumed,
    setting,
)
from study_claim.recordings import Bench, Run, git, pair

from torchstone.study.claim.claim_file import read_claim
from torchstone.study.claim.confounders import rules
from torchstone.study.claim.gate import assess
from torchstone.tracking.marks import invalidate
from torchstone.tracking.store import Store

ALL_ARE_COMPILED_BUT_ONE = {
    "change_both": fact("compile.mode", "default"),
    "change": one_of_them(fact("compile.mode", "none")),
}
LONGER_AND_UNCOUNTED = {"change_both": ending(tokens=None), "change": LONGER}
THE_TEXT_SAYS_1024 = """baseline = "runs:tag=baseline"
candidate = { from = "runs:tag=candidate", effective_batch = 1024 }"""
CALLED_BOTH = """candidate = "runs:tag=candidate"
baseline = { from = "runs:tag=baseline", method = ["magnitude pruning", "movement pruning"] }"""
IN_BOTH = """baseline = ["runs:tag=baseline", "candidate-0"]
candidate = "runs:tag=candidate\""""
KILLED = all_of(ending(reason="SIGUSR1"), attribute("status", "interrupted"))
ON_TIME = all_of(ending(reason="train.max_time_s = 60"), attribute("status", "interrupted"))
ANOTHER_CLOCK = ending(reason="train.max_time_s = 62")
FALLING = all_of(ON_TIME, STOPPED)
LEVEL = all_of(FALLING, setting("optim.schedule", "constant"))
WARMING_UP = all_of(LEVEL, setting("optim.warmup_ratio", 0.9))
STILL_PRUNED = all_of(LEVEL, setting("prune.method", "state"), setting("prune.end", 0.9))
TWO_VARIED = '["optim.learning_rate", "optim.eps"]'
NOT_APPLIED = setting("optim.learning_rate", 5e-5)


def the_commit_before(run: Run) -> None:
    fact("git.commit", git(Path(), "rev-parse", "HEAD~1"))(run)


CONFOUNDED: list[tuple[str, str, dict[str, Any]]] = [
    # (name of the confounder, case, what is done)
    ("configuration", "schedule", {"change": setting("optim.schedule", "linear")}),
    ("configuration", "weight decay", {"change": setting("optim.weight_decay", 0.1)}),
    ("configuration", "width", {"change": setting("model.d_model", 512)}),
    ("configuration", "precision", {"change": setting("train.precision", "bf16")}),
    ("configuration", "sequence length", {"change": setting("data.sequence_length", 64)}),
    ("configuration", "one run of an arm", {"change": one_of_them(setting("optim.beta2", 0.95))}),
    ("configuration", "varied within an arm", {"change": one_of_them(setting("optim.learning_rate", 1e-3))}),
    ("declared-difference", "never applied", {"change": NOT_APPLIED}),
    ("declared-difference", "one of two never applied", {"varies": TWO_VARIED}),
    ("declared-difference", "nothing differs", {"change": NOT_APPLIED, "varies": ""}),
    ("code", "another commit", {"change": the_commit_before}),
    ("code", "another model", {"change": fact("model.fingerprint", "m2")}),
    ("code", "resumed with other code", {"change": resumed("git.commit", "f" * 40)}),
    ("commit", "none", {"change_both": fact("git", None)}),
    ("commit", "none in one arm", {"change": fact("git", None)}),
    ("commit", "not in the repository", {"change_both": fact("git.commit", "f" * 40)}),
    ("commit", "no name of a commit", {"change_both": fact("git.commit", "HEAD")}),
    ("cleanliness", "one arm", {"change": fact("git.dirty", True)}),
    ("cleanliness", "both arms", {"change_both": fact("git.dirty", True)}),
    ("cleanliness", "code never added", {"change_both": fact("git.untracked_code", ["model.py"])}),
    ("data", "other text", {"change": fact("data.train", "d2")}),
    ("data", "not recorded", {"change_both": fact("data.train", None)}),
    ("data", "mixed in one arm", {"change": one_of_them(fact("data.train", "d2"))}),
    ("data", "mixed in both arms alike", {"change_both": one_of_them(fact("data.train", "d2"))}),
    ("evaluation", "other validation data", {"change": fact("data.validation", "v2")}),
    ("evaluation", "at an earlier step", {"change": attribute("metric_step", 90)}),
    ("hardware", "another device", {"change": fact("hardware.name", "A10G")}),
    ("hardware", "more devices", {"change": fact("hardware.processes", 8)}),
    ("hardware", "went on elsewhere", {"change": resumed("hardware.name", "W7900")}),
    ("software", "torch", {"change": fact("environment.torch.version", "2.12.0")}),
    ("software", "Python", {"change": fact("environment.python", "3.12.1")}),
    ("software", "torchstone", {"change": fact("environment.torchstone", "0.2.0")}),
    ("software", "torchstone's own code", {"change": fact("environment.torchstone_sources", "s2")}),
    ("compile-status", "compiled", {"change": fact("compile.mode", "default")}),
    ("compile-status", "given up once", ALL_ARE_COMPILED_BUT_ONE),
    ("compile-status", "levers", {"change": fact("levers", {"threads": 2, "bf16": True})}),
    ("effective-batch", "larger", {"change": fact("batch.effective", 16)}),
    ("effective-batch", "unknown", {"change_both": fact("batch.effective", None)}),
    ("effective-batch", "the text says another one", {"arms": THE_TEXT_SAYS_1024}),
    ("tokens", "more of them", {"change": ending(tokens=25_400)}),
    ("tokens", "more steps", LONGER_AND_UNCOUNTED),
    ("time", "longer, for the same time", {"budget": '"time"', "change": ending(seconds=90.0)}),
    ("time", "unknown, for the same time", {"budget": '"time"', "change_both": ending(seconds=None)}),
    ("stop-rule", "early stopping", {"change": ending(reason="early stopping")}),
    ("stop-rule", "the clock, in one arm", {"change": ON_TIME}),
    ("stop-rule", "the clock, for equal tokens", {"change_both": ON_TIME}),
    ("stop-rule", "another clock", {"budget": '"time"', "change_both": ON_TIME, "change": ANOTHER_CLOCK}),
    ("schedule-end", "the clock before it", {"budget": '"time"', "change_both": FALLING}),
    ("schedule-end", "the clock in the warm-up", {"budget": '"time"', "change_both": WARMING_UP}),
    ("schedule-end", "the clock before the masks stay", {"budget": '"time"', "change_both": STILL_PRUNED}),
    ("unfinished", "a signal under a time budget", {"budget": '"time"', "change_both": KILLED}),
    ("schedule-end", "both arms stopped before", {"change_both": STOPPED}),
    ("schedule-end", "one run stopped before", {"change": one_of_them(STOPPED)}),
    ("unfinished", "interrupted", {"change": one_of_them(attribute("status", "interrupted"))}),
    ("unfinished", "failed", {"change": one_of_them(attribute("status", "failed"))}),
    ("unfinished", "running, its folder gone", {"change": one_of_them(attribute("status", "running"))}),
    ("metric", "absent", {"change": attribute("metric", "train/loss")}),
    ("metric", "not a number", {"change": one_of_them(attribute("value", math.nan))}),
    ("metric", "relative to nothing", {"change": one_of_them(attribute("value", 0.0))}),
    ("method", "two names", {"arms": CALLED_BOTH}),
    ("same-run", "in both arms", {"arms": IN_BOTH}),
    ("seeds", "one run", {"baseline": [3.0], "candidate": [2.5]}),
    ("seeds", "one twice", {"change": setting("train.random_seed", 7)}),
    ("seeds", "unknown", {"change": setting("train.random_seed", None)}),
    ("seeds", "some shared", {"first_seed": 2}),
    ("seeds", "one missing", {"candidate": [2.7, 2.71]}),
]


FOLLOWS = {"one run stopped before": {"tokens"}, "in both arms": {"configuration", "seeds"}}
"""What else is wrong then."""


@pytest.mark.parametrize(("name", "case", "what"), CONFOUNDED, ids=[f"{n}: {c}" for n, c, _ in CONFOUNDED])
def test_a_confounded_comparison_is_refused_by_name(
    bench: Bench, name: str, case: str, what: dict[str, Any]
) -> None:
    recorded = ("baseline", "candidate", "first_seed", "change", "change_both")
    pair(bench, **{key: value for key, value in what.items() if key in recorded})
    found = bench.judged(**{key: value for key, value in what.items() if key not in recorded})
    assert found.verdict == "REFUSED"
    names = {each.name for each in found.confounders}
    assert names == {name} | FOLLOWS.get(case, set()), [each.what for each in found.confounders]
    assert found.judged == ()


def test_there_are_fifty_and_they_cover_every_rule() -> None:
    assert len(CONFOUNDED) >= 50
    never_refuses, by_a_mark = {"stated"}, {"invalidated"}
    assert {name for name, _, _ in CONFOUNDED} | never_refuses | by_a_mark == {each.name for each in rules()}


def test_an_invalidated_run_refuses(bench: Bench) -> None:
    pair(bench)
    with Store.open(bench.store) as store:
        invalidate(store, "candidate-1", "the validation text was in the training data")
    found = bench.judged()
    assert [each.name for each in found.confounders] == ["invalidated"]
    assert "validation text" in found.confounders[0].what


KEYS = {
    "optim.learning_rate": 3e-4,
    "optim.weight_decay": 0.1,
    "optim.schedule": "linear",
    "model.d_model": 512,
    "train.on_nonfinite": "skip",
    "data.deduplicate": "exact",
}


@pytest.mark.parametrize("number", range(50))
def test_a_clean_comparison_has_no_confounder(bench: Bench, number: int) -> None:
    draw = random.Random(number)
    key, mode = draw.choice(list(KEYS)), draw.choice(["none", "default"])
    device, steps = draw.choice(["B200", "A10G", "AMD EPYC"]), draw.choice([10, 100, 5000])

    def circumstances(run: Run) -> None:
        """The same for all, but for what changes no result."""
        fact("hardware.name", device)(run)
        fact("compile.mode", mode)(run)
        fact("planned_steps", steps)(run)
        attribute("metric_step", steps)(run)
        ending(steps=steps, tokens=steps * 127, seconds=draw.uniform(60, 65))(run)
        setting("tracking.run_name", run.run_id)(run)
        setting("tracking.notes", str(draw.random()))(run)
        setting("train.keep_last", draw.randint(1, 5))(run)
        setting("train.checkpoint_every", draw.randint(1, 5))(run)

    def cut_otherwise(run: Run) -> None:
        """The same effective batch in other micro-batches."""
        setting("train.batch_size", 2)(run)
        setting("train.gradient_accumulation_steps", 4)(run)
        fact("batch", {"examples": 2, "accumulation": 4, "effective": 8})(run)

    values = [draw.uniform(2.9, 3.1) for _ in range(draw.randint(2, 6))]
    bench.arm("baseline", values, change=circumstances)
    names = ["candidate", "third"][: draw.randint(1, 2)]
    shares_seeds = draw.random() < 0.5
    for place, name in enumerate(names):
        changes = all_of(circumstances, cut_otherwise) if draw.random() < 0.3 else circumstances
        first = 1 if shares_seeds else 100 * (place + 1)
        bench.arm(name, values, first_seed=first, config={key: KEYS[key]}, change=changes)
    arms = "\n".join(f'{name} = "runs:tag={name}"' for name in ["baseline", *names])
    varies = draw.choice([f'["{key}"]', f'["{key.partition(".")[0]}.*"]'])
    found = bench.judged(arms=arms, varies=varies, budget=draw.choice(['"tokens"', ""]))
    assert found.confounders == (), [each.what for each in found.confounders]


def test_arms_under_one_time_budget_compare_where_nothing_was_still_to_come(bench: Bench) -> None:
    """At a constant rate, masks made; the last validation within the budget is told as a limit."""
    pruned = all_of(LEVEL, setting("prune.method", "state"), setting("prune.end", 0.75))
    slower = all_of(ending(steps=76, tokens=9_652), attribute("metric_step", 70))
    pair(bench, change_both=pruned, change=slower)
    found = bench.judged(budget='"time"')
    assert not found.confounders, [each.what for each in found.confounders]
    assert found.verdict == "SUPPORTED BUT LIMITED"
    assert [(each.name, each.arms) for each in found.limits] == [("evaluation", ("candidate",))]
    assert "step 70 of 76" in found.limits[0].what
    assert found.arms[0].runs[0].get("stop_rule") == "time: 60 s"


def test_what_the_claim_varies_may_differ_as_a_fact_too(bench: Bench) -> None:
    pair(bench, change=all_of(setting("train.compile", "default"), fact("compile.mode", "default")))
    assert {each.name for each in bench.judged().confounders} == {"configuration", "compile-status"}
    assert not bench.judged(varies='["optim.learning_rate", "train.compile"]').confounders


def test_each_candidate_may_differ_in_another_of_the_varied_keys(bench: Bench) -> None:
    pair(bench)
    bench.arm("third", [2.9, 2.92, 2.93], config={"optim.eps": 1e-6})
    arms = "\n".join(f'{name} = "runs:tag={name}"' for name in ("baseline", "candidate", "third"))
    assert not bench.judged(arms=arms, varies=TWO_VARIED).confounders
    names = {each.name for each in bench.judged(arms=arms, varies='["optim.learning_rate"]').confounders}
    assert names == {"configuration"}


def test_ignored_keys_are_given_a_reason_and_shown(bench: Bench) -> None:
    pair(bench, change=setting("data.bucket_by_length", True))
    assert {each.name for each in bench.judged().confounders} == {"configuration"}
    found = bench.judged(ignores='{ "data.bucket*" = "all are of one length" }')
    assert not found.confounders
    assert found.to_dict()["claim"]["ignores"] == {"data.bucket*": "all are of one length"}


def test_a_perplexity_follows_from_the_loss_and_says_so(bench: Bench) -> None:
    pair(bench, candidate=[2.7, 2.72, 2.71])
    found = bench.judged(metric='"val/perplexity"')
    run = found.arms[0].runs[0]
    assert run.get("value") == pytest.approx(math.exp(3.0))
    assert run.statements["value"][0].where == "exp of val/loss"
    assert run.statements["steps"][0].where == "the store"
    assert found.verdict == "SUPPORTED"


def test_limits_are_told_and_do_not_refuse(bench: Bench) -> None:
    counted = fact("data.train", "examples/9")
    pair(
        bench,
        baseline=[3.0, 3.01],
        candidate=[2.0, 2.005],
        change=ending(seconds=100.0),
        change_both=counted,
    )
    found = bench.judged(at='"best"')
    assert found.verdict == "SUPPORTED BUT LIMITED"
    assert {each.name for each in found.limits} == {"seeds", "data", "time", "evaluation"}
    assert "1.7 times as long" in found.why


def test_a_commit_that_was_not_pushed_is_a_limit(bench: Bench, tmp_path: Path) -> None:
    pair(bench)
    git(tmp_path, "init", "-q", "--bare", "remote")
    git(bench.folder, "remote", "add", "origin", str(tmp_path / "remote"))
    assert [each.name for each in bench.judged().limits] == ["commit"]
    git(bench.folder, "push", "-q", "origin", "HEAD:refs/heads/main")
    assert not bench.judged().limits


def test_without_a_repository_the_commit_is_a_limit(bench: Bench, tmp_path: Path) -> None:
    pair(bench)
    (tmp_path / "elsewhere").mkdir()
    found = bench.judged(repository=f'"{tmp_path / "elsewhere"}"')
    assert not found.confounders
    assert [each.name for each in found.limits] == ["commit"]


def test_the_published_comparison_is_refused() -> None:
    found = assess(read_claim(Path(__file__).parents[2] / "examples" / "claims" / "published.toml"))
    assert found.verdict == "REFUSED"
    told = {each.name: each for each in found.confounders}
    assert {"tokens", "effective-batch", "method", "seeds", "commit"} == set(told)
    assert told["tokens"].what == "steps: 5,000 in baseline; 2,500 in bitter8; 7,000 in bitter7"
    assert told["tokens"].arms == ("baseline", "bitter8", "bitter7")
    assert all(word in told["effective-batch"].what for word in ("256", "1,024"))
    assert all(word in told["method"].what for word in ("magnitude pruning", "movement pruning"))
    assert told["method"].arms == ("baseline",)
