"""`torchstone jobs`: what is asked of the queue on the command line, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from study_jobs.conftest import TINY
from zoo.documented import schema

from torchstone.study import executor
from torchstone.study.kinds.registry import JOB_KINDS


@pytest.fixture
def ask(torchstone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`ask("list", code=0)`: the object that was printed. Workers fork, so that they know the tiny kind."""
    if "tiny" not in JOB_KINDS:
        JOB_KINDS.add(TINY)
    local = lambda where, jobs, device: executor.LocalExecutor(jobs, "cpu", start_method="fork")  # noqa: E731
    monkeypatch.setattr(executor, "open_executor", local)

    def ask(*arguments: object, code: int = 0) -> dict[str, Any]:
        answer = torchstone("jobs", *arguments, "--json")
        assert answer.code == code, answer.err
        jsonschema.validate(answer.object, schema(answer.object["schema"]))
        return answer.object

    return ask


def test_jobs_are_entered_worked_off_cancelled_and_tried_again(
    ask: Callable[..., dict[str, Any]], torchstone: Callable[..., Any], tmp_path: Path
) -> None:
    assert torchstone("jobs", "list").code == 2, "there is no store yet, and looking makes none"
    first = ask("submit", "tiny", "--config", '{"name": "first"}', "--priority", 9, "--max-retries", 0)
    assert (first["job_id"], first["status"], first["priority"]) == (1, "waiting", 9)
    (tmp_path / "told.json").write_text('{"name": "broken", "fails": 5, "usage": true}')
    ask("submit", "tiny", "--config", "told.json")
    assert ask("submit", "tiny", "--after", "1,2")["waiting_for"] == "job 1 is waiting"
    ask("submit", "tiny", "--config", '{"name": "dry"}', "--dry-run")
    assert ask("cancel", ask("submit", "tiny")["job_id"])["status"] == "cancelled"
    told = ask("worker", "--drain", "--poll", 0.05)
    assert told["ended"] == [1, 2]
    assert told["stats"] == {"waiting": 1, "running": 0, "done": 1, "failed": 1, "cancelled": 1}
    listed = ask("list", "--kind", "tiny")["jobs"]
    assert [each["status"] for each in listed] == ["done", "failed", "waiting", "cancelled"]
    assert listed[2]["waiting_for"] == "job 2 has failed"
    assert ask("show", 2)["error"]["what"] == "failure 1"
    assert "failed: failure 1" in ask("logs", 2)["lines"][-1]["message"]
    assert ask("retry", 2)["status"] == "waiting"
    assert ask("retry", 1, code=2)["error"] == "UsageError"
    assert ask("submit", "tiny", "--after", "1,x", "--dry-run", code=2)["next"] == "--after 1,2"
    assert "'tiny'" in ask("list", "--kind", "tinny", code=2)["why"]
    assert ask("cancel", 1, code=2)["error"] == "UsageError"
    assert "1 done" in torchstone("jobs", "list").out and "failure 1" in torchstone("jobs", "logs", 2).out
    assert torchstone("jobs", "show", 1).out.startswith("job        1 (tiny): done")
    assert {each["name"] for each in ask("kinds")["kinds"]} >= {
        "training",
        "evaluation",
        "export",
        "retraining",
    }


def test_schedules_are_made_listed_turned_off_and_deleted(
    ask: Callable[..., dict[str, Any]], torchstone: Callable[..., Any]
) -> None:
    made = ask("schedule", "create", "nightly", "tiny", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin")
    assert made["schedules"][0]["next_run"].endswith(("T00:30:00+00:00", "T01:30:00+00:00"))
    assert "nightly" in torchstone("jobs", "schedule", "list").out
    assert ask("schedule", "disable", "nightly")["schedules"][0]["next_run"] is None
    assert ask("schedule", "list", "--enabled-only")["schedules"] == []
    assert ask("schedule", "enable", "nightly")["schedules"][0]["enabled"]
    assert (
        ask("schedule", "create", "bad", "tiny", "--cron", "2 * *", code=2)["what"] == "'2 * *' has 3 fields"
    )
    assert ask("schedule", "delete", "nightly")["schedules"] == []


def test_an_unknown_kind_or_file_is_told(torchstone: Callable[..., Any]) -> None:
    assert "did you mean 'training'" in torchstone("jobs", "submit", "trainnig").err
    assert "no such file" in torchstone("jobs", "submit", "training", "--config", "absent.json").err
    assert "no JSON" in torchstone("jobs", "submit", "training", "--config", "{").err
