"""Read a claim file: strict, all mistakes at once, each with file:line and what was probably meant.

    claim = read_claim("claim.toml")

Only the form is judged here. Which runs the arms name is found by `arms.py`, whether they may be compared by
`confounders.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torchstone._errors import UsageError
from torchstone._registry import suggest
from torchstone.config.mistakes import Mistake, raise_all
from torchstone.config.toml_lines import Lines, TomlPath, read_toml
from torchstone.study.claim.recorded import FACTS, Fact, Statement, flat
from torchstone.study.claim.terms import (
    BASELINE,
    BUDGETS,
    DIRECTIONS,
    MOMENTS,
    ArmSource,
    Claim,
    Selection,
    Size,
    StatedRun,
    parse_effect,
    parse_selection,
)

FORMS = '"runs:tag=NAME", "cells:STUDY/ARM", "wandb:FILE:tag=NAME", a run id or folder, or a list of them'
"""Of saying which runs an arm has."""
_TABLES = ("claim", "arms", "wandb")
_CLAIM_KEYS = (
    "title", "metric", "direction", "effect", "varies", "budget", "at", "confidence", "ignores", "repository",
)  # fmt: skip
Patterns = TypeVar("Patterns", tuple[str, ...], dict[str, str])
_STATED = tuple(name for name in FACTS if name != "invalid")
_RUN_KEYS = ("id", "config", *_STATED)
_ARM_KEYS = ("from", "runs", "config", *_STATED)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "text": ((str,), "a text"),
    "whole": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "truth": ((bool,), "true or false"),
}


def read_claim(path: Path | str) -> Claim:
    """Read a claim, or raise one ConfigError with every mistake in the file."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no claim file {path}", next="torchstone publish claim.toml")
    read_toml(path)  # tells what is no TOML, and where
    return parse_claim(path.read_text(encoding="utf-8"), path)


def parse_claim(text: str, path: Path) -> Claim:
    """The claim that `text` states; `path` is where it lies, or lay."""
    text = text.replace("\r\n", "\n")
    reader = _Reader(path, text)
    claim = reader.claim()
    raise_all(reader.mistakes)
    return claim


class _Reader:
    """Collects mistakes while it reads, so that a user sees all of them."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.data, self.lines = tomllib.loads(text), Lines(text)
        self.mistakes: list[Mistake] = []

    def claim(self) -> Claim:
        self._known(self.data, (), _TABLES)
        head = self._table(self.data, ("claim",))
        self._known(head, ("claim",), _CLAIM_KEYS)
        metric = self._text(head, ("claim", "metric"), needed="the metric that decides, such as val/loss")
        return Claim(
            title=self._text(head, ("claim", "title"), needed="one sentence: what is claimed"),
            metric=metric,
            direction=self._choice(head, ("claim", "direction"), DIRECTIONS),
            size=self._size(head),
            arms=self._arms(),
            varies=self._patterns(self._words(head, ("claim", "varies")), ("claim", "varies")),
            budget=self._choice(head, ("claim", "budget"), BUDGETS, "tokens"),
            at=self._choice(head, ("claim", "at"), MOMENTS, "end"),
            confidence=self._confidence(head),
            ignores=self._patterns(
                self._texts(head, ("claim", "ignores"), "why it changes no result"), ("claim", "ignores")
            ),
            repository=self._text(head, ("claim", "repository")) or ".",
            wandb=self._wandb(),
            path=self.path,
            text=self.text,
        )

    # --- [claim] --------------------------------------------------------------------------------

    def _size(self, head: dict[str, Any]) -> Size:
        text = self._text(head, ("claim", "effect")) or "any"
        size = parse_effect(text)
        if size is None:
            self._wrong(
                ("claim", "effect"),
                f"effect = {text!r} is no size",
                "",
                'effect = "relative 5 %", "absolute 0.02" or "any"',
            )
        return size or Size("absolute", 0.0)

    def _confidence(self, head: dict[str, Any]) -> float:
        value = head.get("confidence", 0.95)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.95 <= value < 1:
            self._wrong(("claim", "confidence"), f"confidence = {value!r} is not in [0.95, 1)")
            return 0.95
        return float(value)

    def _wandb(self) -> dict[str, str]:
        table = self._texts(self.data, ("wandb",), "config.KEY, summary.KEY or metadata.KEY")
        self._known(table, ("wandb",), _STATED)
        for name, source in table.items():
            if source.partition(".")[0] not in ("config", "summary", "metadata") or "." not in source:
                self._wrong(
                    ("wandb", name),
                    f"{name} = {source!r} is no place in an export",
                    "",
                    f'{name} = "config.KEY", "summary.KEY" or "metadata.KEY"',
                )
        return table

    # --- [arms] ---------------------------------------------------------------------------------

    def _arms(self) -> tuple[ArmSource, ...]:
        table = self._table(self.data, ("arms",))
        arms = [self._arm(name, given, ("arms", name)) for name, given in table.items()]
        if table and BASELINE not in table:
            self._wrong(
                ("arms",),
                f"no arm is called {BASELINE}",
                suggest(BASELINE, table),
                f'{BASELINE} = "runs:tag=..."',
            )
        if len(table) < 2:
            self._wrong(
                ("arms",), "a claim compares arms", f"{len(table)} given", 'candidate = "runs:tag=..."'
            )
        return tuple(sorted(arms, key=lambda arm: arm.name != BASELINE))

    def _arm(self, name: str, given: Any, place: TomlPath) -> ArmSource:
        if not isinstance(given, dict):
            return ArmSource(
                name=name,
                selections=self._selections(given, place),
                stated=(),
                said={},
                where=self._where(place),
            )
        self._known(given, place, _ARM_KEYS)
        selections = self._selections(given["from"], (*place, "from")) if "from" in given else ()
        said, config = self._statements(given, place), flat(self._table(given, (*place, "config")))
        rows = given.get("runs", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._wrong(
                (*place, "runs"), "runs is no list of tables", "", "runs = [{ seed = 1, value = 3.2 }]"
            )
            rows = []
        if selections and (rows or config):
            self._wrong(place, "an arm takes its runs from somewhere or states them", "both are given")
        stated = tuple(
            self._stated(row, (*place, "runs", number), f"{name} {number + 1}", said, config)
            for number, row in enumerate(rows or ([] if selections else [{}]))
        )
        return ArmSource(
            name=name,
            selections=selections,
            stated=stated,
            said=said if selections else {},
            where=self._where(place),
        )

    def _stated(
        self,
        row: dict[str, Any],
        place: TomlPath,
        name: str,
        said: Mapping[str, tuple[Statement, ...]],
        config: Mapping[str, Any],
    ) -> StatedRun:
        self._known(row, place, _RUN_KEYS)
        own = self._statements(row, place)
        both = {key: (*own.get(key, ()), *said.get(key, ())) for key in {**said, **own}}
        return StatedRun(
            id=self._text(row, (*place, "id")) or name,
            statements={"status": (Statement("completed", "the claim"),)} | both,
            config=dict(config) | flat(self._table(row, (*place, "config"))),
            where=self._where(place),
        )

    def _selections(self, given: Any, place: TomlPath) -> tuple[Selection, ...]:
        texts = given if isinstance(given, list) else [given]
        found = []
        for text in texts:
            try:
                if not isinstance(text, str) or not text.strip():
                    raise ValueError(f"{text!r} names no runs")
                found.append(parse_selection(text.strip()))
            except ValueError as error:
                self._wrong(place, str(error), "", FORMS)
        if not texts:
            self._wrong(place, "the arm has no runs")
        return tuple(found)

    def _statements(self, table: dict[str, Any], place: TomlPath) -> dict[str, tuple[Statement, ...]]:
        found: dict[str, tuple[Statement, ...]] = {}
        for name in _STATED:
            if name not in table:
                continue
            given = table[name] if isinstance(table[name], list) else [table[name]]
            found[name] = tuple(
                each
                for value in given
                if (each := self._statement(FACTS[name], value, (*place, name))) is not None
            )
        return found

    def _statement(self, fact: Fact, given: Any, place: TomlPath) -> Statement | None:
        """A value, or `{ value = 256, where = "table 2" }`."""
        where = self._where(place)
        if isinstance(given, dict):
            self._known(given, place, ("value", "where"))
            where, given = f"{given.get('where', '')} ({where})".strip(), given.get("value")
        kinds, words = _KINDS[fact.kind]
        if not isinstance(given, kinds) or (isinstance(given, bool) and fact.kind != "truth"):
            self._wrong(place, f"{fact.name} = {given!r} is not {words}", fact.help)
            return None
        return Statement(given, where)

    # --- single values --------------------------------------------------------------------------

    def _known(self, table: Mapping[str, Any], place: TomlPath, known: Iterable[str]) -> None:
        names = list(known)
        for key in table:
            if key not in names:
                self._wrong(
                    (*place, key),
                    f"there is no key {key!r} here",
                    suggest(key, names),
                    f"keys: {', '.join(names)}",
                )

    def _table(self, table: Mapping[str, Any], place: TomlPath) -> dict[str, Any]:
        value = table.get(str(place[-1]), {})
        if not isinstance(value, dict):
            self._wrong(place, f"{place[-1]} is no table", "", f"[{place[-1]}]")
            return {}
        if not value and place in (("claim",), ("arms",)):
            self._wrong(place, f"there is no table [{place[-1]}]", "", f"[{place[-1]}]")
        return value

    def _text(self, table: Mapping[str, Any], place: TomlPath, needed: str = "") -> str:
        value = table.get(str(place[-1]), "")
        if not isinstance(value, str):
            self._wrong(place, f"{place[-1]} = {value!r} is no text", "", f'{place[-1]} = "{value}"')
            return ""
        if needed and not value.strip():
            self._wrong(place, f"{place[-1]} is missing", needed)
        return value

    def _choice(
        self, table: Mapping[str, Any], place: TomlPath, choices: tuple[str, ...], default: str = ""
    ) -> str:
        value = self._text(table, place) or default
        if value not in choices:
            why = suggest(value, choices) if value else "it must be said"
            self._wrong(place, f"{place[-1]} = {value!r} is not one of {', '.join(choices)}", why)
        return value

    def _words(self, table: Mapping[str, Any], place: TomlPath) -> tuple[str, ...]:
        value = table.get(str(place[-1]), [])
        if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
            self._wrong(place, f"{place[-1]} is no list of texts", "", f'{place[-1]} = ["optim.name"]')
            return ()
        return tuple(value)

    def _texts(self, table: Mapping[str, Any], place: TomlPath, meaning: str) -> dict[str, str]:
        found = self._table(table, place)
        for key, value in found.items():
            if not isinstance(value, str) or not value.strip():
                self._wrong((*place, key), f"{key} = {value!r} is no text", meaning)
        return {key: str(value) for key, value in found.items()}

    def _patterns(self, given: Patterns, place: TomlPath) -> Patterns:
        """A pattern for everything would leave nothing to compare."""
        for each in given:
            if not re.match(r"[A-Za-z0-9_]{2}", each):
                self._wrong(place, f"{each!r} names no setting", "a pattern begins with a name, as optim.*")
        return given

    def _where(self, place: TomlPath) -> str:
        return f"{self.path}:{self.lines[place]}"

    def _wrong(self, place: TomlPath, what: str, why: str = "", next: str = "") -> None:
        self.mistakes.append(Mistake(what=what, where=self._where(place), why=why, next=next))
