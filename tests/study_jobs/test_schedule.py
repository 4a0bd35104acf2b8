"""Laws of schedules: cron's own semantics, clocks that change, missed fires, and one job for each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import UsageError
from torchstone.study.job_queue import JobManager
from torchstone.study.schedule import TrainingScheduler, fires, next_fire

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def following(cron: str, start: str, count: int, zone: str = "UTC") -> list[str]:
    """Local times with their offset from UTC."""
    times = fires(cron, zone, at(start, zone))
    return [
        datetime.fromtimestamp(next(times), ZoneInfo(zone)).strftime("%m-%d %H:%M %z") for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("cron", "start", "expected"),
    [
        ("0 2 * * *", "2026-01-31T02:00", ["02-01 02:00 +0000", "02-02 02:00 +0000"]),
        ("0 * * * *", "2026-01-31T22:59", ["01-31 23:00 +0000", "02-01 00:00 +0000"]),
        ("30 */7 * * *", "2026-01-31T14:00", ["01-31 14:30 +0000", "01-31 21:30 +0000", "02-01 00:30 +0000"]),
        ("0 0 13 * 5", "2026-01-01T00:00", ["01-02 00:00 +0000", "01-09 00:00 +0000", "01-13 00:00 +0000"]),
        ("0 12 * * MON-TUE", "2026-01-31T00:00", ["02-02 12:00 +0000", "02-03 12:00 +0000"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["02-29 00:00 +0000"]),
    ],
)
def test_expressions_mean_what_cron_means(cron: str, start: str, expected: list[str]) -> None:
    assert following(cron, start, len(expected)) == expected


def test_a_job_of_a_fixed_time_runs_once_when_clocks_change() -> None:
    assert following("30 2 * * *", "2026-03-28T03:00", 2, BERLIN) == [
        "03-29 03:00 +0200",
        "03-30 02:30 +0200",
    ]
    assert following("30 2 * * *", "2026-10-24T03:00", 2, BERLIN) == [
        "10-25 02:30 +0200",
        "10-26 02:30 +0100",
    ]


def test_a_job_of_every_hour_runs_in_every_hour_that_passes() -> None:
    spring = following("0 * * * *", "2026-03-29T00:30", 3, BERLIN)
    assert spring == ["03-29 01:00 +0100", "03-29 03:00 +0200", "03-29 04:00 +0200"]
    autumn = following("0 * * * *", "2026-10-25T01:30", 3, BERLIN)
    assert autumn == ["10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"]


minutes = st.sampled_from(["*", "0", "*/15", "7,42"])
hours = st.sampled_from(["*", "2", "*/6", "22-23"])
days = st.sampled_from(["*", "1", "28-31"])
weekdays = st.sampled_from(["*", "0", "1-5"])


@settings(max_examples=60, deadline=None)
@given(minutes, hours, days, weekdays, st.integers(0, 366 * 24 * 60), st.sampled_from(["UTC", BERLIN]))
def test_every_fire_is_later_and_its_fields_fit(
    minute: str, hour: str, day: str, weekday: str, start: int, zone: str
) -> None:
    """Against the definition, tried minute by minute; days on which clocks change have tests of their own."""

    def fits(field: str, value: int, lowest: int) -> bool:
        parts = []
        for part in field.split(","):
            span, _, step = part.partition("/")
            low, _, high = span.partition("-")
            first, last = (lowest, 99) if span == "*" else (int(low), int(high or low))
            parts.append(first <= value <= last and (value - first) % int(step or 1) == 0)
        return any(parts)

    begin = at("2026-01-01T00:00") + 60 * start
    found = next_fire(f"{minute} {hour} {day} * {weekday}", zone, begin)
    assert found > begin
    moment = datetime.fromtimestamp(found, ZoneInfo(zone))
    near = [moment + timedelta(days=shift) for shift in (-1, 0, 1)]
    if len({each.utcoffset() for each in near}) > 1:
        return
    either = day != "*" and weekday != "*"
    on_day = [fits(day, moment.day, 1), fits(weekday, (moment.weekday() + 1) % 7, 0)]
    assert fits(minute, moment.minute, 0) and fits(hour, moment.hour, 0)
    assert any(on_day) if either else all(on_day)


@pytest.mark.parametrize(
    ("cron", "zone", "problem"),
    [
        ("0 2 * *", "UTC", "has 4 fields"),
        ("0 2 * * * *", "UTC", "has 6 fields"),
        ("61 * * * *", "UTC", "no cron expression"),
        ("0 0 31 2 *", "UTC", "never fires|no cron expression"),
        ("0 2 * * *", "Middle/Earth", "no time zone"),
    ],
)
def test_what_is_no_schedule_is_refused(queue: JobManager, cron: str, zone: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        TrainingScheduler(queue).create_schedule("n", "tiny", {}, cron, timezone=zone)
    assert TrainingScheduler(queue).list_schedules() == []


def test_missed_fires_become_one_job_that_says_so(queue: JobManager) -> None:
    now = [at("2026-01-10T12:00")]
    scheduler = TrainingScheduler(queue, clock=lambda: now[0])
    made = scheduler.create_schedule("nightly", "tiny", {"name": "n"}, "0 2 * * *", priority=7)
    assert made.next_run == "2026-01-11T02:00:00+00:00"
    assert scheduler.check_due_schedules() == []
    now[0] = at("2026-01-11T02:00")
    (first,) = scheduler.check_due_schedules()
    assert scheduler.check_due_schedules() == [], "once"
    now[0] = at("2026-01-14T12:00")  # three nights later
    (second,) = scheduler.check_due_schedules()
    jobs = [queue.get_job(each) for each in (first, second)]
    assert [each.scheduled for each in jobs] == [
        {"schedule": "nightly", "due": "2026-01-11T02:00:00+00:00", "missed": 0},
        {"schedule": "nightly", "due": "2026-01-12T02:00:00+00:00", "missed": 2},
    ]
    assert {(each.kind, each.priority, each.status) for each in jobs} == {("tiny", 7, "waiting")}
    told = scheduler.get_schedule("nightly")
    assert (told.next_run, told.missed, told.last_job) == ("2026-01-15T02:00:00+00:00", 2, second)


def test_two_workers_make_one_job_of_a_fire(queue: JobManager) -> None:
    now = [at("2026-01-10T12:00")]
    scheduler = TrainingScheduler(queue, clock=lambda: now[0])
    scheduler.create_schedule("hourly", "tiny", {}, "0 * * * *")
    now[0] += 3600
    seen = scheduler._database.read(lambda found: found.exec_driver_sql("SELECT * FROM schedules").all())
    assert len(scheduler.check_due_schedules()) == 1
    assert scheduler._fire(seen[0], now[0]) is None, "a worker that had looked before"
    assert len(queue.list_jobs()) == 1


def test_a_schedule_that_is_off_does_nothing_and_forgets_what_was_due(queue: JobManager) -> None:
    now = [at("2026-01-10T12:00")]
    scheduler = TrainingScheduler(queue, clock=lambda: now[0])
    scheduler.create_schedule("hourly", "tiny", {}, "0 * * * *")
    with pytest.raises(UsageError, match="already"):
        scheduler.create_schedule("hourly", "tiny", {}, "5 * * * *")
    scheduler.disable_schedule("hourly")
    now[0] += 10 * 3600
    assert scheduler.check_due_schedules() == [] and scheduler.list_schedules(enabled_only=True) == []
    assert scheduler.enable_schedule("hourly").next_run == "2026-01-10T23:00:00+00:00"
    scheduler.delete_schedule("hourly")
    with pytest.raises(UsageError, match="no schedule 'hourly'"):
        scheduler.enable_schedule("hourly")


def test_what_a_schedule_names_is_looked_up_when_it_fires(queue: JobManager) -> None:
    """It was there when the schedule was made, and is not any more: the job fails, the worker does not."""
    from study_jobs.conftest import work

    now = [at("2026-01-10T12:00")]
    scheduler = TrainingScheduler(queue, clock=lambda: now[0])
    scheduler.create_schedule("hourly", "tiny", {"name": "a"}, "0 * * * *")
    statement = 'UPDATE schedules SET "order" = replace("order", \'"name"\', \'"gone"\')'
    queue.store.database.write(lambda found: found.exec_driver_sql(statement), about="q")
    now[0] += 3600
    (job_id,) = scheduler.check_due_schedules()
    assert work(queue).exit_code == 0
    job = queue.get_job(job_id)
    assert job.status == "failed" and job.error is not None and "'gone'" in job.error["what"]
    assert datetime.fromisoformat(job.completed_at or "").tzinfo == UTC
