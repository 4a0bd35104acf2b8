"""eval-determinism: in evaluation mode the random state must not matter.

The same input under several random states. What differs was drawn: dropout left on, noise, sampling.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torchstone.checks.bisect import difference, find_guilty, whole_view
from torchstone.checks.probe import probing
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import shown

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult


def eval_determinism(context: Context) -> CheckResult:
    with probing(context) as probe:
        batch = context.batch(length=context.plan.side_length)
        first = shown(probe.run(batch, seed=0))
        limit = probe.limit(first)
        asleep = [name for name, each in context.module.named_modules() if each.training]
        for seed in range(1, context.plan.repeats + 1):
            gap = difference(first, shown(probe.run(batch, seed=seed)))
            if gap > limit:
                guilty = find_guilty(
                    context.module,
                    partial(probe.run, batch, seed=0, fresh=False),
                    partial(probe.run, batch, seed=seed, fresh=False),
                    whole_view,
                    probe.relative_limit,
                    prepare=context.state.restore,
                )
                name = guilty.name if guilty else None
                where = f" ({name})" if name else ""
                return context.failed(
                    f"in evaluation mode the output still depends on the random state{where}",
                    measured=gap, limit=limit, unit="max abs", module=name,
                    hint="use nn.Dropout, or F.dropout(x, p, training=self.training); sample elsewhere",
                    details={"kind": guilty.kind if guilty else None, "still in training mode": asleep[:10]},
                )  # fmt: skip
        return context.passed(
            f"{context.plan.repeats + 1} random states gave the same output",
            measured=0.0, limit=limit, unit="max abs", details={"still in training mode": asleep[:10]},
        )  # fmt: skip


CHECKS.add(
    Check(
        "eval-determinism",
        tier=1,
        title="no dice in evaluation",
        proves="In evaluation mode the output does not depend on the random state.",
        run=eval_determinism,
    )
)
