"""How a knob is described: once, beside the code it steers, with help, unit and range.

Each room's `config.py` holds a `Section` whose fields are made by `knob`. Everything else (Kconfig
tree, `--set` keys, JSON schema, docs table, UI form) is generated from these descriptions. No torch here.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from torchstone._registry import suggest


class Section(BaseModel):
    """A frozen group of knobs; an unknown key, an illegal choice and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _is_a_choice(cls, value: Any, info: ValidationInfo) -> Any:
        extra = cls.model_fields[str(info.field_name)].json_schema_extra
        choices = extra.get("choices") if isinstance(extra, dict) else None
        if isinstance(choices, list) and value is not None and value not in choices:
            legal = [str(each) for each in choices]
            hint = suggest(str(value), legal)
            raise ValueError(f"{value!r} is not one of {', '.join(legal)}" + (f"; {hint}" if hint else ""))
        return value


_THE_SAME = object()


def knob(
    default: Any,
    *,
    help: str,
    unit: str | None = None,
    choices: tuple[str, ...] | None = None,
    depends_on: str | None = None,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    source: str | None = None,
    environment: str | None = None,
    changes_result: bool = True,
    cosmetic: bool = False,
    first_default: Any = _THE_SAME,
) -> Any:
    """A field with its `help` (one sentence), `unit`, range, and the condition it `depends_on`.

    `depends_on` is `"section.key=value"`, `"section.key=one|other"` or `"section.key!=value"`; several are
    joined by ` && `. `choices` lists the legal strings. `source` is the paper or code that a knob
    follows. `environment` is a second, short name of its variable (`MAX_ITERS`) beside CONFIG_SECTION_KEY.

    `changes_result=False` marks what may change when a run is continued: when it stops, what it keeps,
    what helps it, but no bit of what it computes (several devices: the order of a sum). Such a key is no
    part of the configuration's hash. `cosmetic` marks the rare key that changes nothing observable at all.

    The hash counts what differs from the defaults, so that a new knob leaves the ids of studies alone. Who
    gives a knob another default says here what the first one was: runs with the new one are then other runs.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "choices": list(choices) if choices else None,
        "depends_on": depends_on,
        "source": source,
        "environment": environment,
        "same_result": not changes_result or cosmetic,
        "cosmetic": cosmetic,
    }
    if first_default is not _THE_SAME:
        extra["first_default"] = [first_default]
    return Field(
        default=default,
        description=help,
        gt=gt,
        ge=ge,
        lt=lt,
        le=le,
        json_schema_extra={key: value for key, value in extra.items() if value},
    )
