"""The kinds of jobs, by name."""

from __future__ import annotations

from torchstone._registry import Registry
from torchstone.study.kinds import evaluation, export, monitoring, retraining, training
from torchstone.study.kinds.record import JobKind

JOB_KINDS: Registry[JobKind] = Registry("kind of job")
for _each in (training.KIND, evaluation.KIND, export.KIND, retraining.KIND, monitoring.KIND):
    JOB_KINDS.add(_each)
