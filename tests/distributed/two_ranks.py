"""What each of two ranks does in one launch; `test_two_ranks.py` judges what it leaves in a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from distributed.small_job import PRUNED, SPLIT, train

home = Path(sys.argv[1])
rank = int(os.environ["RANK"])
victim = 3 if rank == 1 else None  # only the second rank is asked to stop
told: dict[str, Any] = {}

for strategy in ("ddp", "fsdp"):
    told[strategy] = train(home / strategy, strategy)
    stopped = home / f"{strategy}-stopped"
    told[f"{strategy}-stopped"] = train(stopped, strategy, interrupt=victim)
    told[f"{strategy}-from-one"] = train(home / f"one-stopped-for-{strategy}", strategy, resume="auto")
    noisy = home / f"{strategy}-noisy"
    told[f"{strategy}-noisy"] = train(noisy, strategy, dropout=0.3)
    again = home / f"{strategy}-noisy-again"
    train(again, strategy, dropout=0.3, interrupt=victim)
    told[f"{strategy}-noisy-again"] = train(again, strategy, dropout=0.3, resume="auto")
for name, changes in PRUNED.items():
    told[name] = train(home / name, "ddp", **changes)
for name in SPLIT:
    told[name] = train(home / f"fsdp-{name}", "fsdp", optimizer=name)
(home / f"rank-{rank}.json").write_text(json.dumps(told))
