"""The report: same seed gives the same report, JSON holds what the schema promises, choices are honoured."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from zoo.leaks import Noise, block_with_mlp
from zoo.tiny import TinyEncoder, TinyGPT, V, with_block

import torchstone as ts
from torchstone._errors import UsageError
from torchstone.checks.plan import choose_plan
from torchstone.checks.registry import ORDER, checks_of
from torchstone.checks.report import from_dict

SOME = ["causal-leak", "batch-leak", "position-sensitivity"]
FIELDS = {
    "id",
    "tier",
    "status",
    "summary",
    "measured",
    "limit",
    "unit",
    "module",
    "why",
    "hint",
    "seconds",
    "details",
}


def _timeless(report: dict) -> dict:
    return {**report, "seconds": 0, "checks": [{**each, "seconds": 0} for each in report["checks"]]}


def test_same_seed_same_report() -> None:
    first, second = (ts.check(TinyGPT(), only=SOME, seed=3).to_dict() for _ in range(2))
    assert _timeless(first) == _timeless(second)


def test_the_report_does_not_depend_on_the_random_state_outside() -> None:
    torch.manual_seed(1)
    first = ts.check(TinyGPT(), only=SOME).to_dict()
    torch.manual_seed(2)
    assert _timeless(first) == _timeless(ts.check(TinyGPT(), only=SOME).to_dict())


def test_what_is_drawn_inside_is_drawn_from_the_seed() -> None:
    def measured(outside: int, seed: int) -> float | None:
        torch.manual_seed(0)
        model = with_block(1, block_with_mlp(Noise))()
        torch.manual_seed(outside)
        return ts.check(model, only=["eval-determinism"], seed=seed)["eval-determinism"].measured

    assert measured(1, 0) == measured(2, 0) != measured(1, 5)


def test_schema() -> None:
    report = ts.check(TinyGPT(), only=SOME)
    value = json.loads(report.to_json())
    assert value["schema"] == "torchstone.check/1"
    said = "target class fingerprint parameters task signature vocab_size vocab_size_source"
    assert set(said.split()) <= set(value["model"])
    assert all(set(each) == FIELDS for each in value["checks"])
    assert value["verdict"] == "pass" == report.verdict
    assert [each.id for each in report.checks] == SOME
    assert from_dict(value).to_dict()["checks"] == value["checks"]


def test_json_holds_no_infinity() -> None:
    from zoo.leaks import NanAhead

    report = ts.check(NanAhead(), only=["causal-leak"], task="causal-lm")
    assert report["causal-leak"].measured == float("inf")
    assert json.loads(report.to_json())["checks"][0]["measured"] == "inf"


def test_unknown_ids_are_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="casual-leak") as caught:
        ts.check(TinyGPT(), only=["casual-leak"])
    assert "causal-leak" in caught.value.why
    with pytest.raises(UsageError):
        ts.check(TinyGPT(), only=["causal-leak"], skip=["causal-leak"])
    with pytest.raises(UsageError):
        ts.check(TinyGPT(), only=SOME)["state-leak"]


def test_every_check_of_tier_1_is_registered_in_order() -> None:
    names = [each.name for each in checks_of((1,))]
    assert [name for name in names if name in ORDER] == [name for name in ORDER if name in names]
    assert set(ORDER) <= set(names)


@pytest.mark.parametrize("inputs", ["tensor", "tuple", "dict"])
def test_inputs_as_a_plain_call_takes_them(inputs: str) -> None:
    ids = torch.randint(V, (2, 12))
    given = {"tensor": ids, "tuple": (ids,), "dict": {"input_ids": ids}}[inputs]
    assert ts.check(TinyGPT(), inputs=given, only=["causal-leak"])["causal-leak"].status == "pass"


def test_config_may_be_any_object() -> None:
    for config in ({"vocab_size": V}, SimpleNamespace(vocab_size=V)):
        assert ts.check(TinyGPT(), config=config, only=["vocab-range"]).model["vocab_size"] == V


def test_a_skip_says_why() -> None:
    found = ts.check(TinyEncoder(), task="encoder", only=["causal-leak"])["causal-leak"]
    assert (found.status, found.why) == ("skip", "task is encoder")


def test_nothing_ran_is_an_error() -> None:
    assert ts.check(TinyEncoder(), task="encoder", only=["causal-leak"]).verdict == "error"


def test_a_model_that_raises_gives_errors_not_a_crash() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok = nn.Embedding(V, 8)

        def forward(self, input_ids: Tensor) -> Tensor:
            raise RuntimeError("not today")

    report = ts.check(Broken(), task="causal-lm", config={"vocab_size": V}, only=SOME)
    assert report.verdict == "error"
    assert all("not today" in (each.why or "") for each in report)


def test_the_plan_follows_size_and_budget_not_the_clock() -> None:
    small, large = choose_plan(10_000_000, 512, 60.0), choose_plan(10_000_000_000, 512, 60.0)
    assert small.length == 67 and not small.shortened
    assert {7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66} <= set(small.cuts)
    assert large.shortened and large.length < small.length and "shortened" in large.note
    assert choose_plan(124_000_000, 1024, 60.0).length == 67
    for limit in (1, 2, 5, 8, 33, None):
        plan = choose_plan(1000, limit, 60.0)
        assert plan.length <= (limit or 10**9) and plan.longest <= (limit or 10**9)
        assert all(1 <= cut < plan.length for cut in plan.cuts)
