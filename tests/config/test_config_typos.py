"""300 seeded typos in keys and values, in every layer: all refused, with the right suggestion and place."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from config.config_trees import HOUSE

from torchstone._errors import ConfigError
from torchstone.config.kconfig import Tree
from torchstone.config.knobs import knobs_of, member_symbol, symbol_of
from torchstone.config.resolve import resolve
from torchstone.config.values import BadValue, parse, write

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


def key_typos(count: int) -> list[tuple[str, str, str]]:
    rng = random.Random(0)
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        key = rng.choice(list(KNOBS))
        wrong = mutate(key, rng)
        if wrong not in KNOBS and wrong[0] != ".":
            found.append((LAYERS[len(found) % len(LAYERS)], key, wrong))
    return found


def refusal(layer: str, key: str, text: str, folder: Path) -> ConfigError:
    """What `resolve` says when a layer sets `key` to `text`."""
    path = folder / {"toml": "a.toml", "json": "a.json"}.get(layer, "mine")
    section, _, name = key.partition(".")
    if layer == "toml":
        path.write_text(f'[{section}]\n"{name}" = "{text}"\n')
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


@pytest.mark.parametrize(("layer", "key", "wrong"), key_typos(200))
def test_a_misspelt_key_is_refused_with_the_right_one(
    layer: str, key: str, wrong: str, tmp_path: Path
) -> None:
    error = refusal(layer, wrong, write(KNOBS[key], KNOBS[key].default), tmp_path)
    right = symbol_of(key) if layer in ("environment", "defconfig") else key
    assert f"{right!r}" in error.why, str(error)
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
    rng = random.Random(1)
    found: list[tuple[str, str, str, str]] = []
    keys = [key for key, knob in KNOBS.items() if knob.choices or knob.kind != "str"]
    while len(found) < count:
        key = rng.choice(keys)
        knob = KNOBS[key]
        layer = LAYERS[len(found) % 3]
        if knob.choices:
            right = rng.choice(knob.choices)
            wrong, must = mutate(right, rng), f"{right!r}"
        elif knob.kind == "bool":
            right = rng.choice(("true", "false", "yes"))
            wrong, must = mutate(right, rng), f"{right!r}"
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
    tree = Tree(HOUSE)
    right = member_symbol(KNOBS["optim.schedule"], "constant")
    (tmp_path / "mine").write_text(f"{right.replace('CONSTANT', 'CONSTNAT')}=y\n")
    (only,) = tree.read(tmp_path / "mine", "mine").mistakes
    assert right in only.why
