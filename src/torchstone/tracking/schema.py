"""The tables of the store. An open format: any client of SQLite or PostgreSQL can read it.

Times are seconds since 1970 in UTC. `value` is NULL for NaN, because SQLite knows no NaN; infinities are
kept as they are, the sign of zero is not. JSON is kept as text. A change here needs a numbered step in
`migrations.py`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
Name = String().with_variant(String(collation="C"), "postgresql")
"""Text that is sorted by its bytes wherever it is kept."""


def _run_id(*, primary_key: bool = False) -> Column[str]:
    owner = ForeignKey("runs.run_id", ondelete="CASCADE")
    return Column("run_id", Name, owner, primary_key=primary_key, nullable=False)


runs = Table(
    "runs",
    metadata,
    Column("run_id", Name, primary_key=True),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("status", String, nullable=False),
    Column("run_dir", String, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("config", Text, nullable=False),
    Column("summary", Text, nullable=False),
)
Index("runs_by_start", runs.c.started)

metrics = Table(
    "metrics",
    metadata,
    _run_id(primary_key=True),
    Column("key", Name, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Float),
    Column("at", Float, nullable=False),
    # The primary key is the order in which curves are read; a hidden row number would store it twice.
    sqlite_with_rowid=False,
)

last_values = Table(
    "last_values",
    metadata,
    _run_id(primary_key=True),
    Column("key", Name, primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("value", Float),
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("event_id", Integer, primary_key=True),
    _run_id(),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("data", Text, nullable=False),
)
Index("events_by_run", events.c.run_id, events.c.at)

jobs = Table(
    "jobs",
    metadata,
    Column("queue", Name, primary_key=True),
    Column("job_id", Name, primary_key=True),
    Column("place", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("order", Text, nullable=False),
    Column("token", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("owner", String),
    Column("leased_until", Float),
    Column("not_before", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("result", Text),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("needs", Text, nullable=False, server_default="[]"),
    Column("stop", Integer, nullable=False, server_default="0"),
    Column("created", Float),
    Column("began", Float),
    Column("ended", Float),
    sqlite_with_rowid=False,
)

job_log = Table(
    "job_log",
    metadata,
    Column("line_id", Integer, primary_key=True),
    Column("queue", Name, nullable=False),
    Column("job_id", Name, nullable=False),
    Column("at", Float, nullable=False),
    Column("level", String, nullable=False),
    Column("message", Text, nullable=False),
)
Index("job_log_by_job", job_log.c.queue, job_log.c.job_id, job_log.c.line_id)

schedules = Table(
    "schedules",
    metadata,
    Column("queue", Name, primary_key=True),
    Column("name", Name, primary_key=True),
    Column("cron", String, nullable=False),
    Column("timezone", String, nullable=False),
    Column("order", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("enabled", Integer, nullable=False),
    Column("next_run", Float),
    Column("last_run", Float),
    Column("last_job", String),
    Column("missed", Integer, nullable=False),
    Column("created", Float, nullable=False),
)

check_reports = Table(
    "check_reports",
    metadata,
    _run_id(primary_key=True),
    Column("verdict", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("head", Text, nullable=False),
)

checks = Table(
    "checks",
    metadata,
    _run_id(primary_key=True),
    Column("check_id", Name, primary_key=True),
    Column("place", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("record", Text, nullable=False),
)

registered_models = Table(
    "registered_models",
    metadata,
    Column("model_id", Integer, primary_key=True),
    Column("name", Name, nullable=False),
    Column("version", Name, nullable=False),
    Column("task_type", String, nullable=False),
    Column("status", String, nullable=False),
    Column("checkpoint_path", String, nullable=False),
    Column("files", Text, nullable=False),
    Column("config_hash", String, nullable=False),
    Column("run_id", String),
    Column("parent_id", Integer),
    Column("created", Float, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("memory_gb", Float),
    Column("metadata", Text, nullable=False),
    UniqueConstraint("name", "version"),
    # A number names one model for ever, even after that was deleted.
    sqlite_autoincrement=True,
)


def _model_id() -> Column[int]:
    owner = ForeignKey("registered_models.model_id", ondelete="CASCADE")
    return Column("model_id", Integer, owner, primary_key=True, autoincrement=False)


model_tags = Table(
    "registered_model_tags",
    metadata,
    _model_id(),
    Column("tag", Name, primary_key=True),
    Column("since", Float, nullable=False),
)

model_exports = Table(
    "registered_model_exports",
    metadata,
    _model_id(),
    Column("format", Name, primary_key=True),
    Column("path", String, nullable=False),
    Column("files", Text, nullable=False),
    Column("metadata", Text, nullable=False),
)

stamp = Table("torchstone_store", metadata, Column("version", Integer, nullable=False))
"""In PostgreSQL alone: one row, the number of the last migration."""
