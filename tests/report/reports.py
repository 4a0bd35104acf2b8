"""Check reports and runs for the tests of this room: one plain, one by a hostile author."""

from __future__ import annotations

import math
from typing import Any

from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

HOSTILE = "<script>alert(1)</script><img src=x onerror=\"alert('2')\"> &lt; ]]> \x1b[2J \x00 {{ $x$ %s"


def check(name: str, status: str, **fields: Any) -> dict[str, Any]:
    plain = {
        "id": name,
        "tier": 1,
        "status": status,
        "summary": f"What {name} found.",
        "measured": None,
        "limit": None,
        "unit": None,
        "module": None,
        "why": None,
        "hint": None,
        "seconds": 0.1,
        "details": {},
    }
    return plain | fields


def report(*checks: dict[str, Any], verdict: str = "fail", **model: Any) -> dict[str, Any]:
    about = {
        "target": "model.py:Net",
        "class": "Net",
        "fingerprint": "ab" * 32,
        "parameters": 1234567,
        "task": "causal-lm",
        "signature": {"input_ids": "ids"},
        "vocab_size": 96,
        "vocab_size_source": "config",
    }
    return {
        "schema": "torchstone.check/1",
        "torchstone": "0.1.0",
        "model": about | model,
        "verdict": verdict,
        "seconds": 1.25,
        "seed": 0,
        "checks": list(checks),
    }


ORDINARY = report(
    check("shape-robustness", "pass", measured=0.0, limit=1e-6, unit="max abs"),
    check(
        "causal-leak",
        "fail",
        summary="Token 9 changes the output at position 3.",
        measured=0.25,
        limit=1e-6,
        unit="max abs",
        module="blocks.7.attn",
        hint="Mask the scores above the diagonal before the softmax.",
        details={"cuts": [1, 8]},
    ),
    check("residual-scale", "warn", measured="inf", module="blocks.1", hint="Scale the residual branch."),
    check("cache-parity", "skip", summary="Not run.", why="the model keeps no cache"),
    check("low-precision", "error", summary="The check stopped.", why="RuntimeError: no kernel"),
)

HOSTILE_REPORT = report(
    check(
        HOSTILE,
        "fail",
        summary=HOSTILE,
        module=f"a.{HOSTILE}",
        why=HOSTILE,
        hint=HOSTILE,
        unit=HOSTILE,
        measured=1.0,
        details={HOSTILE: HOSTILE},
    ),
    check("b", "error", why=HOSTILE),
    check("c", "skip", why=HOSTILE),
    check("d", "warn", summary=HOSTILE, module=HOSTILE),
    target=HOSTILE,
    signature={HOSTILE: HOSTILE},
    task=HOSTILE,
    fingerprint=HOSTILE,
    **{"class": HOSTILE},
)


def a_run(store: Store, run_id: str = "run-1", *, steps: int = 40, name: str = "net", **curves: Any) -> str:
    """A finished training whose loss falls from 5 towards 2; more curves by keyword `key=function(step)`."""
    config = {
        "optim": {"learning_rate": {"value": 3e-4, "source": "default"}},
        "train": {"random_seed": {"value": 1, "source": "--set"}},
    }
    store.start_run(run_id, name=name, kind="train", run_dir=f"runs/{run_id}", config=config)
    every = {
        "train/loss": lambda step: 2 + 3 * math.exp(-step / 10),
        "val/loss": lambda step: None if step % 10 else 2.1 + 3 * math.exp(-step / 10),
        "train/learning_rate": lambda step: 3e-4 * min(1.0, step / 4),
        "train/tokens_per_s": lambda step: 1000.0 + step % 3,
        "train/grad_norm": lambda step: 1.0,
    } | curves
    rows = [
        MetricRow(key, step, value, 1.7e9 + step)
        for key, curve in every.items()
        for step in range(1, steps + 1)
        if curve and (value := curve(step)) is not None
    ]
    store.log_rows(run_id, rows)
    store.finish_run(run_id, "completed", {"steps": steps})
    return run_id
