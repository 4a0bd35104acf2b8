"""drift: new data come from the distribution that the model knows, by the verdict of `torchstone drift`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchstone._errors import DataError, UsageError
from torchstone.checks.registry import CHECKS, Check

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.drift.profile import Profile
    from torchstone.tracking.records import CheckResult

MOST_ROWS = 10_000


def drift(context: Context) -> CheckResult:
    from torchstone.drift.verdict import compare

    new = context.wishes.get("data")
    if new is None:
        return context.skipped("no new data was named", hint="--data SOURCE")
    reference = context.wishes.get("reference") or _trained_on(context.wishes.get("target"))
    if reference is None:
        return context.skipped(
            "what the model knows was not named", hint="--reference SOURCE, a saved profile, or check a run"
        )
    try:
        verdict = compare(_profile(context, reference), _profile(context, new), seed=context.seed)
    except (DataError, UsageError) as unfit:
        return context.skipped(f"the two cannot be compared: {unfit.what}")
    drifted = [each for each in verdict.features if each.alarm]
    rows = f"{verdict.rows[0]:,} and {verdict.rows[1]:,} rows"
    fields: dict[str, Any] = {
        "measured": verdict.p_value,
        "limit": verdict.false_alarm_rate,
        "unit": "p",
        "details": verdict.to_dict(),
    }
    if verdict.alarm:
        return context.failed(
            f"{', '.join(f'{each.feature} ({each.aspect})' for each in drifted)} drifted, in {rows}",
            hint="look at the new data, score the model on it, and train again if it is worse",
            **fields,
        )
    return context.passed(f"no drift is seen in {rows}", **fields)


def _profile(context: Context, source: Any) -> Profile:
    from torchstone.checks.data_profile import profile_source
    from torchstone.config.resolve import resolve
    from torchstone.drift.profile import Profile
    from torchstone.train.config import SECTIONS

    if isinstance(source, Profile):
        return source
    settings = resolve(SECTIONS)
    return profile_source(
        str(source),
        settings.data,
        task=context.task.kind,
        tokenizer=_tokenizer(context.wishes.get("target")),
        rows=MOST_ROWS,
        seed=context.seed,
    )


def _tokenizer(target: str | None) -> Any:
    """The model's own, so that drift is seen in its ids; bytes where it has none."""
    from torchstone.adapt.tokenizer_of import find_tokenizer

    return None if target is None else find_tokenizer(target)


def _trained_on(target: str | None) -> str | None:
    """The source of the data of a run."""
    from torchstone.adapt.target import parse_target
    from torchstone.adapt.tokenizer_of import home_of
    from torchstone.config.resolve import Resolved
    from torchstone.tracking.run_folder import RunFolder
    from torchstone.train.config import SECTIONS

    home = None if target is None else home_of(parse_target(target))
    if home is None or not (home / "config.json").is_file():
        return None
    settings = Resolved.from_json(SECTIONS, RunFolder.open(home).read_config())
    return str(settings.data.source)


CHECKS.add(
    Check(
        "drift",
        tier=5,
        title="data as they were",
        proves="New data come from the distribution that the model knows, at a known rate of false alarms.",
        run=drift,
    )
)
