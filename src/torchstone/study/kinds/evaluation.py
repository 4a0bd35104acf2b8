"""Score a model: what `torchstone eval` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchstone.study.kinds.record import Ended, JobKind, Order, require_keys

if TYPE_CHECKING:
    from torchstone.tracking.store import Store

KEYS = (
    "target", "data", "task", "split", "batch_size", "max_samples", "sequence_length", "tokenizer", "trust",
    "device",
)  # fmt: skip


def prepare(config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    require_keys(config, KEYS, needed=("target",))
    return {"job": dict(config)}


def run(order: Order) -> Ended:
    from torchstone.train.evaluate import EvalJob
    from torchstone.train.evaluate import run as evaluate

    told = {"device": order.get("device")} | dict(order["job"])
    return Ended("completed", 0, evaluate(EvalJob(**told)).to_dict())


KIND = JobKind("evaluation", "score a model, as `torchstone eval` does", KEYS, prepare, run)
