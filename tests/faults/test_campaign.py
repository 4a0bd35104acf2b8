"""The long run: thousands of kills, signals and failing calls among them. `make campaign`, by hand.

TORCHSTONE_CAMPAIGN_KILLS=2000     how many, at least
TORCHSTONE_CAMPAIGN_SEED=0         of the draws; share n uses seed + n, so one share can be run alone
TORCHSTONE_CAMPAIGN_REPORT=DIR     campaign.json and campaign.md go here (default build/campaign)
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.job import Job, Server
from faults.rain import REPORT, Rain, draw_kill, draw_other

KILLS = int(os.environ.get("TORCHSTONE_CAMPAIGN_KILLS", "2000"))
SEED = int(os.environ.get("TORCHSTONE_CAMPAIGN_SEED", "0"))
PER_SHARE = 50
OTHERS = 0.2
"""Share of signals and failing calls among the faults."""
SAVING = [(), ("train.async_save=true",)]
"""Every run draws whether its checkpoints are written between steps or beside them."""


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(SEED, SEED + -(-KILLS // PER_SHARE)))
def test_campaign(
    server: Server,
    new_job: Callable[..., Job],
    reference: dict[str, Any],
    labels: list[str],
    tmp_path: Path,
    seed: int,
) -> None:
    rng = random.Random(seed)
    rain = Rain(lambda: new_job(*rng.choice(SAVING)), reference, seed)
    with server.watching(tmp_path) as seen:
        while rain.tally.kills < PER_SHARE:
            other = rng.random() < OTHERS
            rain.strike(draw_other(rng, labels) if other else draw_kill(rng, labels, longest_s=0.4))
        rain.finish()
    rain.tally.broken += seen["broken"]
    rain.tally.opened = seen["opened"]
    rain.tally.keep_part(REPORT, seed)
    assert rain.tally.broken == []
