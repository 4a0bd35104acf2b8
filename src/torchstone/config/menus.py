"""The knobs in the Kconfig language: menus of sections, with prompts, ranges, dependencies and help.

How a knob becomes a symbol: bool and int (with range) as such; a choice as a Kconfig `choice` with one switch
per alternative and a hidden string that holds the result; everything that Kconfig cannot hold (real numbers,
lists, and values that may be None) as a string, checked by us when the file is read. A number that may be
None is one string, `"none"` or `"150"`, because a switch plus a number takes two lines to say one thing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torchstone.config.dotconfig import kconfig_kind, quote
from torchstone.config.knobs import PREFIX, Condition, Knob, member_symbol
from torchstone.config.schema import Section
from torchstone.config.values import LARGEST, legal, write


def kconfig_text(knobs: Mapping[str, Knob], sections: Mapping[str, type[Section]]) -> str:
    """The Kconfig language source of the tree: one menu per section, and one in it per section inside."""
    lines = ['mainmenu "torchstone"', ""]
    for name, section in sections.items():
        lines += [*_menu(name, section, knobs), ""]
    return "\n".join(lines)


def _menu(path: str, section: type[Section], knobs: Mapping[str, Knob]) -> list[str]:
    about = (section.__doc__ or "").strip().split("\n")[0]
    lines = [f"menu {_prompt(f'{path}: {_title(about, path)}')}", ""]
    for name, field in section.model_fields.items():
        key, kind = f"{path}.{name}", field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            lines += _menu(key, kind, knobs)
        else:
            knob = knobs[key]
            lines += _choice(knob, knobs) if knob.choices else _config(knob, knobs)
        lines.append("")
    return [*lines, "endmenu"]


def _title(docstring: str, name: str) -> str:
    text = docstring.removeprefix(f"`{name}.*`").strip(" :.").replace("`", "")
    return text or "its knobs"


def _config(knob: Knob, knobs: Mapping[str, Knob]) -> list[str]:
    kind = kconfig_kind(knob)
    default = write(knob, knob.default)
    lines = [f"config {_bare(knob.symbol)}", f"\t{kind} {_prompt(_short(knob))}"]
    if kind == "int":
        lines.append(f"\trange {_least(knob)} {_greatest(knob)}")
    lines.append(f"\tdefault {_prompt(default) if kind == 'string' else default}")
    return [*lines, *_depends(knob, knobs), *_help(knob)]


def _choice(knob: Knob, knobs: Mapping[str, Knob]) -> list[str]:
    default = member_symbol(knob, write(knob, knob.default))
    lines = ["choice", f"\tprompt {_prompt(_short(knob))}", f"\tdefault {_bare(default)}"]
    lines += [*_depends(knob, knobs), *_help(knob)]
    for text in knob.alternatives:
        lines += [f"config {_bare(member_symbol(knob, text))}", f"\tbool {_prompt(text)}"]
    lines += ["endchoice", f"config {_bare(knob.symbol)}", "\tstring"]
    for text in knob.alternatives:
        lines.append(f"\tdefault {_prompt(text)} if {_bare(member_symbol(knob, text))}")
    return lines


def _least(knob: Knob) -> int:
    return max(
        -LARGEST if knob.ge is None else math.ceil(knob.ge),
        -LARGEST if knob.gt is None else math.floor(knob.gt) + 1,
    )


def _greatest(knob: Knob) -> int:
    return min(
        LARGEST if knob.le is None else math.floor(knob.le),
        LARGEST if knob.lt is None else math.ceil(knob.lt) - 1,
    )


def _depends(knob: Knob, knobs: Mapping[str, Knob]) -> list[str]:
    return [f"\tdepends on {_expression(each, knobs)}" for each in knob.conditions]


def _expression(condition: Condition, knobs: Mapping[str, Knob]) -> str:
    """A condition in the Kconfig language, with the conditions of the knob that it names."""
    other = knobs[condition.key]
    if other.choices:
        terms = [_bare(member_symbol(other, text)) for text in condition.values]
    elif kconfig_kind(other) == "bool":
        terms = [("" if text == "y" else "!") + _bare(other.symbol) for text in condition.values]
    else:
        terms = [f"{_bare(other.symbol)} = {_prompt(text)}" for text in condition.values]
    either = f"({' || '.join(terms)})"
    further = [_expression(each, knobs) for each in other.conditions]
    return " && ".join([f"!{either}" if condition.negated else either, *further])


def _short(knob: Knob) -> str:
    return f"{knob.key.rpartition('.')[2]}: {knob.help.rstrip('.')}"


def _help(knob: Knob) -> list[str]:
    facts = [knob.help, f"{knob.key}: {legal(knob)}.", f"Default: {write(knob, knob.default) or 'empty'}."]
    facts += about(knob)
    return ["\thelp", *(f"\t  {fact}" for fact in facts)]


def about(knob: Knob) -> list[str]:
    """What else is to be said of a knob: where it comes from, its short variable, what it leaves alone."""
    facts = [f"Source: {knob.source}."] if knob.source else []
    if knob.environment:
        facts.append(f"Also {knob.environment}= in the environment and of make.")
    if knob.cosmetic:
        facts.append("Cosmetic: it changes nothing but itself.")
    elif not knob.changes_result:
        facts.append("Changes no result.")
    return facts


def _prompt(text: str) -> str:
    if "$(" in text:
        raise ValueError(f"{text!r}: Kconfig would expand '$('")
    return quote(text)


def _bare(symbol: str) -> str:
    return symbol.removeprefix(PREFIX)
