"""The right class, built with the right arguments, in a module of its own; clear words where that fails."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchstone
from torchstone._errors import ConfigError, ModelError, TorchstoneError, UntrustedCode, UsageError
from torchstone.adapt.load import load

PARTS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

class CustomTransformer(nn.Module):
    def __init__(self, vocab_size=7, d_model=4):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.block = Block(d_model)

    def forward(self, input_ids):
        return self.block.linear(self.embedding(input_ids))
"""


@pytest.fixture
def write(tmp_path: Path):
    def written(source: str, config: dict[str, Any] | None = None, name: str = "model") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "model.py").write_text(source)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return written


def test_a_helper_that_is_defined_first_is_not_the_model(write):
    model = load(write(PARTS, {"vocab_size": 11, "d_model": 6}))
    assert model.class_name == "CustomTransformer"
    assert model.module.embedding.weight.shape == (11, 6)
    assert model.config["vocab_size"] == 11


@pytest.mark.parametrize(
    "source",
    [
        "class Part(nn.Module): ...\nclass Whole(nn.Module):\n    part: Part\n",
        "class Part(nn.Module): ...\nclass Whole(nn.Module):\n    part: 'Part | None'\n",
        "class Part(nn.Module): ...\nclass Whole(Part): ...\n",
        "class Part(nn.Module): ...\ndef make(): return Part()\n"
        "class Whole(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.part = make()\n",
        "class Part(nn.Module): ...\nKINDS = {'a': Part}\nclass Whole(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.part = KINDS['a']()\n",
        "class Whole(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.part = Part()\nclass Part(nn.Module): ...\n",
    ],
    ids=["annotation", "text annotation", "base", "function", "table", "defined later"],
)
def test_a_part_is_recognised_however_it_is_used(write, source: str):
    assert load(write("from torch import nn\n" + source)).class_name == "Whole"


def test_several_wholes_are_listed_and_none_is_guessed(write):
    folder = write("from torch import nn\nclass A(nn.Module): ...\nclass B(nn.Module): ...\n")
    with pytest.raises(UsageError, match="A, B") as refused:
        load(folder)
    assert "model.py:B" in refused.value.next
    assert load(f"{folder}/model.py:A").class_name == "A"
    assert load(folder, model_name="B").class_name == "B"
    (folder / "config.json").write_text('{"model_name": "A"}')
    assert load(folder).class_name == "A"


def test_a_display_name_that_is_no_class_is_told(write):
    model = load(write(PARTS, {"model_name": "My first model"}))
    assert model.class_name == "CustomTransformer"
    assert any("My first model" in note for note in model.notes)


def test_an_unknown_class_names_its_neighbours(write):
    with pytest.raises(UsageError, match="CustomTransformr") as refused:
        load(f"{write(PARTS)}/model.py:CustomTransformr")
    assert "CustomTransformer" in str(refused.value)


def test_build_model_comes_before_the_choice_by_use(write):
    source = PARTS + "\ndef build_model(d_model):\n    return Block(d_model)\n"
    model = load(write(source, {"d_model": 3}))
    assert model.class_name == "Block"
    with pytest.raises(ModelError, match="no torch"):
        load(write(PARTS + "\ndef build_model():\n    return 3\n", {}))


NAMELESS = """from torch import nn

class Net(nn.Module):
    def __init__(self):
        self.x = unknown
"""

CONFIG_ARGUMENT = """
from dataclasses import dataclass
from torch import nn

@dataclass
class NetConfig:
    n_embd: int = 4
    bias: bool = True

class Net(nn.Module):
    def __init__(self, config{annotation}):
        super().__init__()
        self.linear = nn.Linear(config.n_embd, 2, bias=config.bias)
"""


@pytest.mark.parametrize("annotation", [": NetConfig", ": 'NetConfig'", ""])
def test_a_config_argument_gets_the_dataclass_of_the_file(write, annotation: str):
    source = CONFIG_ARGUMENT.replace("{annotation}", annotation)
    assert load(write(source, {"n_embd": 6})).module.linear.weight.shape == (2, 6)
    assert load(write(source, {"d_model": 5})).module.linear.weight.shape == (2, 5)


def test_a_config_argument_answers_by_attribute_and_by_key(write):
    source = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, cfg):\n"
    source += "        super().__init__()\n"
    source += "        self.l = nn.Linear(cfg.width, cfg['height'], bias=cfg.get('bias', False))\n"
    assert load(write(source, {"width": 2, "height": 3})).module.l.weight.shape == (3, 2)
    with pytest.raises(ModelError, match="nothing about 'width'"):
        load(write(source, {"height": 3}))


def test_keyword_arguments_get_the_rest(write):
    source = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, width, **sizes):\n"
    source += "        super().__init__()\n"
    source += "        self.l = nn.Linear(width, sizes['height'])\n"
    assert load(write(source, {"width": 2, "height": 3})).module.l.weight.shape == (3, 2)


def test_a_missing_argument_is_named_with_the_signature(write):
    source = (
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, vocab_size, num_experts): ...\n"
    )
    with pytest.raises(ModelError, match="Net needs num_experts") as refused:
        load(write(source, {"vocab_size": 3}))
    assert "(vocab_size, num_experts)" in refused.value.where
    assert "vocab_size" in refused.value.why


def test_a_missing_argument_on_which_the_nodes_disagree_says_so(write):
    source = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, d_model): ...\n"
    nodes = [{"id": "a_0", "params": {"d_model": 4}}, {"id": "b_0", "params": {"d_model": 8}}]
    with pytest.raises(ModelError, match="needs d_model") as refused:
        load(write(source, {"nodes": nodes}))
    assert "a_0 says 4, b_0 says 8" in refused.value.why


def test_two_words_that_disagree_are_not_chosen_from(write):
    source = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, d_model): ...\n"
    with pytest.raises(ModelError, match="needs d_model"):
        load(write(source, {"n_embd": 4, "hidden_size": 8}))


def test_an_override_takes_effect_or_is_refused(write):
    folder = write(PARTS, {"vocab_size": 11})
    assert load(folder, overrides={"vocab_size": 5, "num_layers": None}).module.embedding.num_embeddings == 5
    with pytest.raises(ConfigError, match=r"model\.num_layers has no effect"):
        load(folder, overrides={"num_layers": 3})


def test_each_file_lives_in_a_module_of_its_own(write):
    first = load(write(PARTS, name="first"))
    second = load(write(PARTS.replace("d_model=4", "d_model=9"), name="second"))
    assert type(first.module) is not type(second.module)
    assert second.module.embedding.embedding_dim == 9
    for model in (first, second):
        again = pickle.loads(pickle.dumps(model.module))
        assert type(again) is type(model.module)


def test_neighbours_are_importable_and_do_not_leak(write):
    for name, width in (("first", 3), ("second", 5)):
        folder = write("from torch import nn\nfrom sizes import WIDTH\nclass Net(nn.Linear):\n"
                       "    def __init__(self): super().__init__(WIDTH, 1)\n", name=name)  # fmt: skip
        (folder / "sizes.py").write_text(f"WIDTH = {width}\n")
        path = list(sys.path)
        assert load(folder).module.in_features == width
        assert "sizes" not in sys.modules
        assert sys.path == path
        assert not list(folder.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("source", "says", "line"),
    [
        ("import torch\n1 / 0\n", "ZeroDivisionError", ":2"),
        (NAMELESS, "NameError", ":5"),
        ("import not_installed_anywhere\n", "ModuleNotFoundError", ":1"),
        ("import sys\nsys.exit(0)\n", "asked Python to exit", ":2"),
        ("def f(:\n", "not valid Python", ":1"),
        ("x = 1\n", "no torch.nn.Module class|defines no", ""),
    ],
    ids=["import", "constructor", "missing package", "exit", "syntax", "no class"],
)  # fmt: skip
def test_a_fault_of_the_file_names_file_and_line(write, source: str, says: str, line: str):
    folder = write(source)
    with pytest.raises(TorchstoneError, match=says) as refused:
        load(folder)
    assert isinstance(refused.value, ModelError)
    assert f"{folder / 'model.py'}{line}" in refused.value.where


def test_a_failed_file_leaves_no_module_behind(write):
    before = set(sys.modules)
    with pytest.raises(ModelError):
        load(write("1 / 0\n"))
    assert set(sys.modules) == before


def test_loading_is_seeded_and_leaves_the_generators_alone(write):
    folder = write(PARTS)
    state = torch.get_rng_state()
    first, again, other = load(folder), load(folder), load(folder, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.module.embedding.weight, again.module.embedding.weight)
    assert not torch.equal(first.module.embedding.weight, other.module.embedding.weight)


def test_the_fingerprint_knows_code_config_and_shapes_and_nothing_else(write):
    base = load(write(PARTS, {"vocab_size": 11}, "a")).fingerprint
    assert load(write(PARTS, {"vocab_size": 11}, "b"), seed=5).fingerprint == base
    assert load(write(PARTS, {"vocab_size": 12}, "c")).fingerprint != base
    assert load(write(PARTS + "# changed\n", {"vocab_size": 11}, "d")).fingerprint != base
    assert len(base) == 64


def test_a_module_comes_in_as_it_is():
    module = nn.Linear(2, 3)
    model = load(module)
    assert model.module is module
    assert model.fingerprint == load(nn.Linear(2, 3)).fingerprint != load(nn.Linear(3, 2)).fingerprint


def test_objects_of_packages():
    assert load("torch.nn:Linear", overrides={"in_features": 2, "out_features": 3}).class_name == "Linear"
    with pytest.raises(ModelError, match="in_features"):
        load("torch.nn:Linear")
    with pytest.raises(UsageError, match="no attribute"):
        load("torch.nn:Linaer")
    with pytest.raises(UsageError, match="no module"):
        load("torchstone_nowhere.models:Net")
    with pytest.raises(ModelError, match="neither a model"):
        load("math:pi")


def test_the_zoo_enters_by_the_same_door():
    model = load("zoo:gpt-nano", overrides={"num_layers": 1})
    assert model.config["num_layers"] == 1
    with pytest.raises(UsageError, match="gpt-nano"):
        load("zoo:gpt-nanoo")


def test_what_was_said_to_be_untrusted_is_not_run(write):
    folder = write("raise SystemError('was run')\n")
    with pytest.raises(UntrustedCode) as refused:
        load(folder, trust=False)
    assert refused.value.exit_code == 3
    assert "--untrusted" in refused.value.next


def test_the_room_can_be_called(write):
    adapter = torchstone.adapt(load(write(PARTS)).module)
    assert adapter.module is not None
    assert torchstone.adapt.parse_target("zoo:x").kind == "zoo"
