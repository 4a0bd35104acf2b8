"""Two trees of sections for the tests, and random legal configurations of a tree.

HOUSE is what the program uses; STRANGE holds every kind of knob and dependency that a room may declare later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from torchstone._errors import ConfigError
from torchstone.config.knobs import Knob, knobs_of
from torchstone.config.resolved import Resolved, Value
from torchstone.config.schema import Section, knob
from torchstone.config.values import LARGEST, check, in_effect, parse
from torchstone.study.config import SECTIONS

HOUSE: dict[str, type[Section]] = SECTIONS


class Attention(Section):
    """Nested."""

    name: str = knob("sdpa", help="Mechanism.", choices=("sdpa", "ra", "mla-kv"))
    alpha: float = knob(0.3, help="Share.", ge=0.0, le=1.0, depends_on="odd.attention.name=ra|mla-kv")
    depth: int | None = knob(
        None, help="Levels.", ge=-3, le=12, depends_on="odd.attention.name=ra && odd.on=y"
    )


class Odd(Section):
    """`odd.*`: one of each kind."""

    attention: Attention = Attention()
    on: bool = knob(True, help="A switch that is on.")
    off: bool = knob(False, help="A switch that is off.", depends_on="odd.on!=n")
    free: int = knob(-5, help="Any number.")
    narrow: int = knob(3, help="Above 2, below 9.", gt=2, lt=9)
    maybe: bool | None = knob(None, help="Yes, no or not said.")
    pick: str | None = knob(None, help="A choice that may be absent.", choices=("a", "b c"))
    real: float | None = knob(None, help="A real number.", unit="seconds", gt=0.0)
    numbers: tuple[float, ...] = knob((0.5, 2.0), help="Real numbers.")
    words: tuple[str, ...] | None = knob(None, help="Words.", depends_on="odd.narrow=4|5")
    text: str = knob('quote " and \\ and #', help="Text with everything.")
    remark: str = knob("", help="Changes nothing.", cosmetic=True)
    helper: int = knob(0, help="Changes no result.", environment="HELPERS", changes_result=False)


class Even(Section):
    """`even.*`: depends on its neighbour, through two steps."""

    width: int = knob(8, help="Width.", unit="channels", ge=1, depends_on="odd.off=y")
    far: str = knob("x", help="Behind a number.", depends_on="even.width=16")
    near: str = knob("x", help="Behind a text.", depends_on="even.far=y1")
    behind: str = knob(
        "x", help="Behind a default that may itself have no effect.", depends_on="even.width=8"
    )


STRANGE: dict[str, type[Section]] = {"odd": Odd, "even": Even}
TREES = {"house": HOUSE, "strange": STRANGE}

LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
WORD = LINE.map(lambda text: text.replace(",", "").strip()).filter(bool)


def legal_values(knob: Knob) -> st.SearchStrategy[Any]:
    """Values that the knob takes, in their canonical form."""
    one: st.SearchStrategy[Any]
    if knob.choices:
        one = st.sampled_from(knob.choices)
    elif knob.kind == "bool":
        one = st.booleans()
    elif knob.kind == "int":
        low = [each for each in (knob.ge, None if knob.gt is None else knob.gt + 1) if each is not None]
        high = [each for each in (knob.le, None if knob.lt is None else knob.lt - 1) if each is not None]
        one = st.integers(int(max(low, default=-LARGEST)), int(min(high, default=LARGEST)))
    elif knob.kind == "float":
        one = st.floats(
            min_value=knob.ge if knob.gt is None else knob.gt,
            max_value=knob.le if knob.lt is None else knob.lt,
            exclude_min=knob.gt is not None,
            exclude_max=knob.lt is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    else:
        one = WORD if knob.many else LINE
    if knob.many:
        one = st.lists(one, max_size=3).map(tuple)
    if knob.optional:
        one = st.none() | one
    return (st.just(knob.default) | one).map(lambda value: check(knob, value))


@st.composite
def configurations(draw: st.DrawFn, sections: Mapping[str, type[Section]]) -> dict[str, Any]:
    """A full legal configuration in which knobs without effect hold their defaults; up to a dozen differ."""
    knobs = knobs_of(sections)
    values = {key: knob.default for key, knob in knobs.items()}
    wanted = draw(st.lists(st.sampled_from(list(knobs)), max_size=12, unique=True))
    values |= {key: draw(legal_values(knobs[key])) for key in wanted}
    # Conditions often hold, so that what hangs on them is tried too.
    for key in wanted:
        for condition in knobs[key].conditions:
            if not condition.negated and draw(st.booleans()):
                target, text = knobs[condition.key], draw(st.sampled_from(condition.values))
                values[condition.key] = parse(target, text)
    return consistent(values, sections)


def consistent(values: dict[str, Any], sections: Mapping[str, type[Section]]) -> dict[str, Any]:
    """The values, with defaults for what has no effect and for sections that refuse their values together."""
    knobs = knobs_of(sections)
    for name in sections:
        mine = [key for key in knobs if key.partition(".")[0] == name]
        alone = {key: Value(values[key], "test") for key in mine}
        try:
            Resolved.of_values({name: sections[name]}, alone)
        except ConfigError:
            values |= {key: knobs[key].default for key in mine}
    while hidden := [
        key for key in knobs if values[key] != knobs[key].default and not in_effect(key, knobs, values)
    ]:
        values |= {key: knobs[key].default for key in hidden}
    return values


def another(knob: Knob) -> Any:
    """A legal value that is not the default; the default itself where there is no other."""
    if knob.choices:
        return next((each for each in knob.choices if each != knob.default), knob.default)
    if knob.many:
        return (*(knob.default or ()), {"int": 2, "float": 0.25, "str": "x"}[knob.kind])
    if knob.kind == "bool":
        return not knob.default
    if knob.kind == "str":
        return f"{knob.default}1"
    return (knob.default or 4) + 1 if knob.kind == "int" else (knob.default or 0.25) / 2
