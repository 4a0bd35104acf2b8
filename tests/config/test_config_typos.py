"""Seeded typos in keys, symbols, switches and values, in every layer: all refused, with the right place.

The right word is the first suggestion. A slip that lies as near to another word has no right one.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable
from pathlib import Path

import pytest
from config.config_trees import HOUSE

from torchstone._errors import ConfigError
from torchstone.config.kconfig import Tree
from torchstone.config.knobs import knobs_of, member_symbol, symbol_of
from torchstone.config.resolve import resolve
from torchstone.config.values import NO, YES, BadValue, parse, write

KNOBS = knobs_of(HOUSE)
LAYERS = ("set", "environment", "defconfig", "toml", "json")


def mutate(word: str, rng: random.Random) -> str:
    """One slip of the fingers: a letter lost, doubled, swapped or replaced."""
    while True:
        at = rng.randrange(len(word) - 1)
        slip = rng.choice(("lose", "double", "swap", "replace"))
        if slip == "lose":
            wrong = word[:at] + word[at + 1 :]
        elif slip == "double":
            wrong = word[:at] + word[at] + word[at:]
        elif slip == "swap":
            wrong = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        else:
            wrong = word[:at] + rng.choice(string.ascii_lowercase) + word[at + 1 :]
        if wrong != word and ".." not in wrong and wrong.count(".") == word.count("."):
            return wrong


def slips(word: str) -> set[str]:
    """Every word one slip away: the letters of `mutate`, none of its chance."""
    pairs = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    letters = [*string.ascii_lowercase, *string.digits, "_", "."]
    return {
        *(a + b[1:] for a, b in pairs if b),
        *(a + b[1] + b[0] + b[2:] for a, b in pairs if len(b) > 1),
        *(a + letter + b[1:] for a, b in pairs if b for letter in letters),
        *(a + letter + b for a, b in pairs for letter in letters),
    }


def is_plain(wrong: str, known: Iterable[str]) -> bool:
    """Whether only one known word is a slip away."""
    return len(slips(wrong) & set(known)) == 1


def key_typos(count: int) -> list[tuple[str, str, str]]:
    rng = random.Random(0)
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        key = rng.choice(list(KNOBS))
        wrong = mutate(key, rng)
        if wrong not in KNOBS and wrong[0] != "." and is_plain(wrong, KNOBS):
            found.append((LAYERS[len(found) % len(LAYERS)], key, wrong))
    return found


def first_suggestion(text: str) -> str:
    found = re.search(r"did you mean '([^']*)'", text)
    return found[1] if found else ""


def refusal(layer: str, key: str, text: str, folder: Path) -> ConfigError:
    """What `resolve` says when a layer sets `key` to `text`."""
    path = folder / {"toml": "a.toml", "json": "a.json"}.get(layer, "mine")
    section, _, name = key.partition(".")
    if layer == "toml":
        path.write_text(f'[{section}]\n{name} = "{text}"\n')
    elif layer == "json":
        path.write_text(f'{{"{section}": {{"{name}": "{text}"}}}}')
    elif layer == "defconfig":
        path.write_text(f'# mine\n{symbol_of(key)}="{text}"\n')
    with pytest.raises(ConfigError) as caught:
        resolve(
            HOUSE,
            file=path if layer in ("toml", "json") else None,
            defconfig=path if layer == "defconfig" else None,
            overrides=[(key, text)] if layer == "set" else [],
            environ={symbol_of(key): text} if layer == "environment" else None,
        )
    return caught.value


@pytest.mark.parametrize(("layer", "key", "wrong"), key_typos(300))
def test_a_misspelt_key_is_refused_with_the_right_one(
    layer: str, key: str, wrong: str, tmp_path: Path
) -> None:
    error = refusal(layer, wrong, write(KNOBS[key], KNOBS[key].default), tmp_path)
    right = symbol_of(key) if layer in ("environment", "defconfig") else key
    assert first_suggestion(error.why) == right, str(error)
    where = {
        "set": "--set",
        "environment": f"environment {symbol_of(wrong)}",
        "defconfig": f"{tmp_path / 'mine'}:2",
        "toml": f"{tmp_path / 'a.toml'}:2",
        "json": str(tmp_path / "a.json"),
    }[layer]
    assert error.where == where


def value_typos(count: int) -> list[tuple[str, str, str, str]]:
    """(layer, key, wrong text, what the message must hold)."""
    rng = random.Random(0)
    found: list[tuple[str, str, str, str]] = []
    keys = [key for key, knob in KNOBS.items() if knob.choices or knob.kind != "str"]
    while len(found) < count:
        key = rng.choice(keys)
        knob = KNOBS[key]
        layer = LAYERS[len(found) % 3]
        if knob.choices:
            right = rng.choice(knob.choices)
            wrong, must = mutate(right, rng), f"did you mean {right!r}"
            if not is_plain(wrong, knob.alternatives):
                continue
        elif knob.kind == "bool":
            right = rng.choice(("true", "false", "yes"))
            wrong, must = mutate(right, rng), f"did you mean {right!r}"
            if not is_plain(wrong, (*YES, *NO)):
                continue
        else:
            right = write(knob, knob.default) if knob.default is not None else "12"
            wrong = rng.choice(
                (right + "x", "-" + right + "1", right.replace(".", ",") + ",", "1O", "", "nan")
            )
            must = "must be"
        # In a .config a boolean is a bare y or n; its other spellings are a matter of syntax.
        if layer == "defconfig" and knob.kind in ("bool", "int"):
            continue
        if not is_legal(key, wrong):
            found.append((layer, key, wrong, must))
    return found


def is_legal(key: str, text: str) -> bool:
    try:
        parse(KNOBS[key], text)
    except BadValue:
        return False
    return True


@pytest.mark.parametrize(("layer", "key", "wrong", "must"), value_typos(100))
def test_a_wrong_value_is_refused_with_what_is_legal(
    layer: str, key: str, wrong: str, must: str, tmp_path: Path
) -> None:
    error = refusal(layer, key, wrong, tmp_path)
    assert must in f"{error.what} {error.why}", str(error)
    assert key in error.what or symbol_of(key) in error.what
    assert "must be" in error.what
    if KNOBS[key].unit:
        assert KNOBS[key].unit in error.what


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("batch_size", "train.batch_size"),
        ("optim.batch_size", "train.batch_size"),
        ("train.batch-size", "train.batch_size"),
        ("TRAIN.BATCH_SIZE", "train.batch_size"),
        ("CONFIG_TRAIN_BATCH_SIZE", "train.batch_size"),
        ("learnig_rate", "optim.learning_rate"),
        ("epoch", "train.epochs"),
    ],
)
def test_a_key_in_the_wrong_form_finds_its_form(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(HOUSE, overrides=[(wrong, "2")])
    assert f"{right!r}" in caught.value.why


def test_the_same_name_in_another_section_comes_before_a_similar_name_in_this_one() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(HOUSE, overrides=[("optim.epochs", "2")])
    assert caught.value.why == "did you mean 'train.epochs'?"


def test_a_misspelt_switch_of_a_choice_finds_the_switch(tmp_path: Path) -> None:
    tree, rng = Tree(HOUSE), random.Random(2)
    switches = [member_symbol(knob, text) for knob in KNOBS.values() for text in knob.alternatives]
    settings = [knob.symbol for knob in KNOBS.values()]
    words = {each.removeprefix("CONFIG_").lower() for each in (*switches, *settings)}
    typos: list[tuple[str, str]] = []
    while len(typos) < 100:
        right = rng.choice(switches).removeprefix("CONFIG_")
        wrong = mutate(right.lower(), rng)
        if wrong not in words and is_plain(wrong, words):
            typos.append((f"CONFIG_{right}", f"CONFIG_{wrong.upper()}"))
    path = tmp_path / "mine"
    path.write_text("".join(f"{wrong}=y\n" for _, wrong in typos))
    mistakes = tree.read(path, "mine").mistakes
    assert [each.line for each in mistakes] == list(range(1, 101))
    for (right, _), mistake in zip(typos, mistakes, strict=True):
        assert first_suggestion(mistake.why) == right, mistake
