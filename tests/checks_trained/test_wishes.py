"""What a job is told reaches the checks that ask for it."""

from __future__ import annotations

from torchstone.checks.run import CheckJob, _wishes


def test_every_wish_of_a_job_reaches_the_checks() -> None:
    job = CheckJob(
        target="zoo:gpt-nano", baseline="zoo:gpt2", glue="data/glue", glue_task="rte", isolated=True
    )
    told = _wishes(job)
    assert (told["baseline"], told["glue"], told["glue_task"]) == ("zoo:gpt2", "data/glue", "rte")
    assert told["isolated"] and told["tokenizer"] is None  # the zoo brings none
