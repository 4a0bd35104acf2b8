"""Whether one trained model is worse than another, from the differences on each example.

    found = compare_runs("runs/a", "runs/b")                  # on the data that both held out
    found = compare_models(old, new, dataset, task="classification")
    found.verdict, found.metrics["loss"].interval             # regressed | improved | neutral

Both models answer the same questions, so their differences are paired and most of the noise cancels. The
interval of the mean difference is a bootstrap over texts, not tokens. A metric has regressed if its whole
interval lies on the worse side of 0. Losses, perplexity and bits per byte are better the lower they are,
accuracy the higher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from torchstone._errors import DataError, TorchstoneError, UsageError
from torchstone.train.evaluate import SAME, EvalJob, EvalResult, evaluate, run
from torchstone.train.result import perplexity
from torchstone.train.scoring import ExampleScores, Numbers

if TYPE_CHECKING:
    from torch import nn

    from torchstone.adapt.adapter import Adapter
    from torchstone.adapt.load import LoadedModel
    from torchstone.data.task import TaskSpec
    from torchstone.train.losses import Batch

SCHEMA = "torchstone.regression/1"
FALSE_ALARMS = 0.05
"""Share of comparisons without any difference that may be called regressed, over all metrics together."""
FEWEST_UNITS = 30
"""Texts; a bootstrap of fewer knows too little of how they spread."""
RESAMPLES = 4_999
_AT_ONCE = 4_000_000
"""Numbers that one turn of the bootstrap holds."""

Status = Literal["regressed", "improved", "neutral"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric of both models."""

    baseline: float
    candidate: float
    delta: float
    """candidate - baseline."""
    interval: tuple[float, float]
    """Of the delta; it has the sign of the delta's direction only if that is significant."""
    lower_is_better: bool
    status: Status


@dataclass(frozen=True, kw_only=True)
class Regression:
    """What changed from `baseline` to `candidate`."""

    baseline: str
    candidate: str
    data: str
    split: str
    metrics: dict[str, Change]
    units: int
    unit: str
    """What was resampled: documents, blocks or examples."""
    false_alarms: float
    method: str
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Status:
        """regressed if any metric has; else improved if any has."""
        found = {each.status for each in self.metrics.values()}
        return "regressed" if "regressed" in found else "improved" if "improved" in found else "neutral"

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.regression/1` object."""
        return {"schema": SCHEMA, "verdict": self.verdict} | asdict(self)


def compare_runs(
    baseline: str | Path,
    candidate: str | Path,
    *,
    data: str | None = None,
    max_samples: int | None = None,
    false_alarms: float = FALSE_ALARMS,
    trust: bool | None = None,
    device: str | None = None,
    cache_dir: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Regression:
    """Score two runs (or checkpoints) on the data that the baseline held out, or on `data`, and compare.

    A UsageError tells where the two held out different data.
    """
    results = [
        run(
            EvalJob(
                target=str(target), data=data, max_samples=max_samples, trust=trust, device=device,
                cache_dir=cache_dir, progress=progress,
            )
        )
        for target in (baseline, candidate)
    ]  # fmt: skip
    return compare(*results, false_alarms=false_alarms, seed=seed)


def compare_models(
    baseline: nn.Module | LoadedModel | Adapter | str | Path,
    candidate: nn.Module | LoadedModel | Adapter | str | Path,
    data: Any,
    *,
    task: TaskSpec | str | None = None,
    tokenizer: Any = None,
    collator: Callable[[Sequence[Any]], Batch] | None = None,
    batch_size: int = 8,
    max_samples: int | None = None,
    false_alarms: float = FALSE_ALARMS,
    device: str | None = None,
    seed: int = 0,
) -> Regression:
    """Score two models on data at hand, as `evaluate` takes it, and compare."""
    results = [
        evaluate(
            model, data, task=task, tokenizer=tokenizer, collator=collator, batch_size=batch_size,
            max_samples=max_samples, device=device,
        )
        for model in (baseline, candidate)
    ]  # fmt: skip
    return compare(*results, false_alarms=false_alarms, seed=seed)


def compare(
    baseline: EvalResult, candidate: EvalResult, *, false_alarms: float = FALSE_ALARMS, seed: int = 0
) -> Regression:
    """Compare two evaluations of the same examples."""
    if not 0 < false_alarms < 1:
        raise UsageError(
            f"false_alarms={false_alarms:g} is no rate", next="a number between 0 and 1, as 0.05"
        )
    _require_same_questions(baseline, candidate)
    old, new = baseline.examples, candidate.examples
    assert old is not None and new is not None
    judged = {"loss": (old.losses, new.losses, True)}
    if "accuracy" in baseline.metrics and "accuracy" in candidate.metrics:
        judged["accuracy"] = (old.correct, new.correct, False)
    rate = false_alarms / len(judged)  # Bonferroni; what is made from the loss is not tested again
    metrics = {}
    for name, (before, after, lower_is_better) in judged.items():
        delta, interval = paired_interval(after - before, old.targets, old.units, tail=rate, seed=seed)
        level = float(before.sum() / old.targets.sum())
        metrics[name] = _change(level, delta, interval, lower_is_better)
    metrics |= _from_loss(metrics["loss"], baseline, candidate, old)
    return Regression(
        baseline=baseline.target,
        candidate=candidate.target,
        data=baseline.data,
        split=baseline.split,
        metrics=metrics,
        units=len(np.unique(old.units)),
        unit=old.unit,
        false_alarms=false_alarms,
        method=f"paired bootstrap (the wider of bootstrap-t and percentiles), {RESAMPLES:,} resamples of "
        f"{old.unit}; {rate:.3g} left out on each side of "
        f"{len(judged)} metric{'s' if len(judged) > 1 else ''}",
        notes=list(dict.fromkeys([*baseline.notes, *candidate.notes])),
    )


def paired_interval(
    differences: Numbers, counts: Numbers, units: np.ndarray[Any, Any], *, tail: float, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """sum(differences) / sum(counts), both per example, and its interval with `tail` left out on each side.

    Units (texts) are resampled. On each side the wider of two bootstraps holds: bootstrap-t, for a percentile
    interval of 50 skewed differences misses half as often again as it says; percentiles, for with few answers
    that flipped the errors of the resamples, by which bootstrap-t divides, are themselves a matter of luck
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 12.5 and 13.3).
    """
    _, place = np.unique(units, return_inverse=True)
    n = int(place.max()) + 1 if len(place) else 0
    if n < FEWEST_UNITS:
        raise TorchstoneError(
            f"{n} texts are too few to tell a regression from chance",
            why=f"a bootstrap needs at least {FEWEST_UNITS}",
            next="torchstone runs compare A B --regression --data SOURCE, with more data",
        )
    x, weight = np.zeros(n), np.zeros(n)
    np.add.at(x, place, differences)
    np.add.at(weight, place, counts)
    delta, error = (float(each) for each in _ratio(x, weight))
    if not error > 1e-12 * abs(delta):  # all texts agree, or one of them is NaN
        return delta, (delta, delta)
    generator = np.random.default_rng(seed)
    turns = -(-RESAMPLES * n // _AT_ONCE)
    away, off = [], []
    for part in np.array_split(np.arange(RESAMPLES), turns):
        drawn = generator.integers(n, size=(len(part), n))
        means, errors = _ratio(x[drawn], weight[drawn])
        off.append(means - delta)
        with np.errstate(divide="ignore", invalid="ignore"):
            away.append(np.nan_to_num(off[-1] / errors, nan=0.0, posinf=np.inf, neginf=-np.inf))
    sides = [tail, 1 - tail]
    low, high = np.quantile(np.concatenate(off), sides, method="inverted_cdf") * math.sqrt(n / (n - 1))
    t_low, t_high = np.quantile(np.concatenate(away), sides, method="inverted_cdf") * error
    return delta, (delta + min(float(low), -float(t_high)), delta + max(float(high), -float(t_low)))


def _ratio(x: Numbers, weight: Numbers) -> tuple[Numbers, Numbers]:
    """sum(x) / sum(weight) over the last axis, and its standard error (Cochran 1977, section 6.4)."""
    n, total = x.shape[-1], weight.sum(-1)
    ratio = x.sum(-1) / total
    residuals = x - ratio[..., None] * weight
    return ratio, np.sqrt(n / (n - 1) * (residuals**2).sum(-1)) / total


def _change(baseline: float, delta: float, interval: tuple[float, float], lower_is_better: bool) -> Change:
    rounding = SAME * max(1.0, abs(baseline))
    worse, better = interval[0] > rounding, interval[1] < -rounding
    if not lower_is_better:
        worse, better = better, worse
    if not np.isfinite(delta):  # a model that answers NaN is no better than one that answers
        worse, better = bool(np.isfinite(baseline)), not np.isfinite(baseline)
    return Change(
        baseline=baseline,
        candidate=baseline + delta,
        delta=delta,
        interval=interval,
        lower_is_better=lower_is_better,
        status="regressed" if worse else "improved" if better else "neutral",
    )


def _from_loss(
    loss: Change, baseline: EvalResult, candidate: EvalResult, scores: ExampleScores
) -> dict[str, Change]:
    """Perplexity and bits per byte say the same as the loss in other units; their status is the loss's."""
    found = {}
    if "perplexity" in baseline.metrics:
        level = perplexity(loss.baseline)
        found["perplexity"] = _told(loss, lambda delta: perplexity(loss.baseline + delta) - level, level)
    if {"bits_per_byte"} <= baseline.metrics.keys() & candidate.metrics.keys() and scores.bytes is not None:
        scale = float(scores.targets.sum() / scores.bytes.sum() / math.log(2))
        found["bits_per_byte"] = _told(loss, lambda delta: delta * scale, loss.baseline * scale)
    return found


def _told(loss: Change, of: Callable[[float], float], level: float) -> Change:
    delta, (low, high) = of(loss.delta), loss.interval
    return Change(
        baseline=level,
        candidate=level + delta,
        delta=delta,
        interval=(of(low), of(high)),
        lower_is_better=True,
        status=loss.status,
    )


def _require_same_questions(baseline: EvalResult, candidate: EvalResult) -> None:
    both = (baseline, candidate)
    if any(each.examples is None for each in both):
        raise UsageError("an evaluation without its examples cannot be paired", next="evaluate again")
    for name in ("task", "data", "split"):
        here, there = (getattr(each, name) for each in both)
        if here != there:
            raise UsageError(
                f"the two are not scored on the same {name}",
                where=f"{baseline.target}: {here}; {candidate.target}: {there}",
                next="name data that both have not learned from: --data SOURCE",
            )
    digests = [each.examples.digest for each in both if each.examples]
    if digests[0] != digests[1]:
        raise DataError(
            "the two were not asked the same questions",
            where=f"{baseline.target} and {candidate.target} on {baseline.data} ({baseline.split})",
            why="their targets differ: another tokenizer, other blocks, or other held-out examples",
            next="name data for both with --data SOURCE; losses of different tokenizers cannot be paired",
        )
