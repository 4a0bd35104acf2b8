"""Command line to resolved settings: defconfig or file, environment, --set, and the flags on top."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import UsageError

if TYPE_CHECKING:
    from torchstone.config.resolve import Resolved


def read_settings(
    *,
    config: Path | None = None,
    defconfig: str | None = None,
    assignments: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved:
    """Resolve every section (a job selects its own); a flag that is None was not given."""
    from torchstone.config.resolve import resolve
    from torchstone.study.config import SECTIONS

    overrides = [assignment(each) for each in assignments]
    overrides += [(key, _text(value)) for key, value in (flags or {}).items() if value is not None]
    return resolve(SECTIONS, defconfig=defconfig, file=config, overrides=overrides, environ=os.environ)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text!r} has no '='", next="--set section.key=value, as in train.epochs=2")
    return key.strip(), value.strip()
