"""Law L10: every key of the configuration changes something observable, or is declared cosmetic.

Each key of every section is changed in a real, tiny job, and what came of the job must differ. A new key is
tried without being named here; where the ordinary job cannot show it, the failure says what to add. The same
runs hold `changes_result=False` to its word: such a key leaves rows and weights as they were, to the bit.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from laws.liveness import Scenario, outcome, verdict

from torchstone.config.knobs import knobs_of
from torchstone.config.schema import Section, knob
from torchstone.optim.config import OptimConfig
from torchstone.study.config import SECTIONS

ROOT = Path(__file__).parents[2]
KNOBS = knobs_of(SECTIONS)

SMALL_TEXTS = {"data.source": "{place}/texts.csv", "data.text_column": "text"}
UNSIZED = dict.fromkeys(f"model.{name}" for name in ("d_model", "num_layers", "num_heads", "max_seq_len"))
"""For models that take no sizes."""
CLASSES = {
    **SMALL_TEXTS,
    "data.task": "classification",
    "data.label_column": "kind",
    "data.sequence_length": 64,
    "model.target": "{place}/classifier.py",
    **UNSIZED,
}
RISING = {"optim.learning_rate": 3.0, "optim.schedule": "constant"}
"""The validation loss rises, so that the best checkpoint is not the newest."""
WORSE = {**RISING, "train.checkpoint_every": 1, "train.eval_every": 1}
MIXED = {**UNSIZED, "model.target": "{place}/mixer.py"}
LATENT = {"model.attention.name": "mla", "model.attention.latent": 6, "model.mlp.name": "reciprocal"}
RMLP = {"model.mlp.name": "r-mlp", "model.mlp.reciprocal_width": 8}
ROUTED = {"model.attention.route_start": 0, "model.attention.route_stop": 4}
PRUNED = {"model.attention.keep": 3, "model.attention.recent": 2}
DELAYED = {**RMLP, "model.mlp.activation": "delayed", "model.mlp.activation_steps": 1}
CALM = {
    **RMLP,
    "model.mlp.activation": "variance-guided",
    "model.mlp.activation_window": 2,
    "model.mlp.max_variation": 9.0,
    "model.mlp.max_slope": 9.0,
    "model.mlp.ramp_steps": 1,
}
CALM_FOLDED = {
    "model.attention.name": "ra-folded",
    "model.attention.activation": "variance-guided",
    "model.attention.activation_window": 2,
    "model.attention.max_variation": 9.0,
    "model.attention.max_slope": 9.0,
    "model.attention.ramp_steps": 1,
}
SICK = {**UNSIZED, "model.target": "{place}/sick.py", "train.batch_size": 2}
SHALLOW = {"model.num_layers": 1, "train.epochs": 1}
"""For what is slow to begin."""
LEFT_OPEN = {"train.batch_size": 0, "train.gradient_accumulation_steps": 0}
ON_DATA = {"check.tiers": (5,)}
TRAINED = {"check.tiers": (3,), "check.budget_s": 1.0}
WISHES = "tests/checks_trained/test_wishes.py::test_every_wish_of_a_job_reaches_the_checks"
TWO_RANKS = "tests/distributed/test_two_ranks.py::test_only_the_slices_are_written_while_a_split_model_trains"

SCENARIOS = {
    "check.tiers": Scenario(base={"check.only": ()}, values=[(2,)], may_fail=True),
    "check.only": Scenario(values=[("vocab-range",)]),
    "check.skip": Scenario(values=[("batch-leak",)]),
    "check.budget_s": Scenario(base={"check.only": ("causal-leak",)}, values=[1e-4]),
    "check.seed": Scenario(base={"check.only": ("vocab-range", "init-loss")}),
    "check.data": Scenario(base=ON_DATA | {"check.only": ("calibration",)}, values=["{place}/text"]),
    "check.reference": Scenario(
        base=ON_DATA | {"check.only": ("drift",), "check.data": "{place}/text"}, values=["{place}/other"]
    ),
    "check.baseline": Scenario(
        base=TRAINED | {"check.only": ("benchmark",)}, values=["{place}/mixer.py"], may_fail=True
    ),
    "check.glue": Scenario(base=TRAINED | {"check.only": ("glue",)}, values=["{place}/text"], may_fail=True),
    "check.glue_task": Scenario(proved_by=WISHES),
    "data.bucket_by_length": Scenario(base=CLASSES),
    "data.deduplicate": Scenario(base={**SMALL_TEXTS, "data.max_train_samples": None}),
    "data.document_attention": Scenario(base=SMALL_TEXTS),
    "data.label_column": Scenario(base=CLASSES, values=["other_kind"]),
    "data.max_bytes": Scenario(values=[300]),
    "data.min_chars": Scenario(base=SMALL_TEXTS, values=[30]),
    "data.normalize_images": Scenario(
        base={
            **UNSIZED,
            "model.target": "zoo:lenet5",
            "data.source": "builtin:digits",
            "data.tokenizer": "auto",
            "data.sequence_length": None,
        },
        needs="sklearn: pip install 'torchstone[vision]'",
    ),
    "data.source": Scenario(values=["{place}/other"]),
    "data.task": Scenario(base=MIXED, values=["masked-lm"]),
    "data.text_column": Scenario(base=SMALL_TEXTS, values=["other_text"]),
    "data.token_dtype": Scenario(base={"data.source": "{place}/ids.bin", "data.tokenizer": "auto"}),
    "data.tokenizer": Scenario(values=["char"]),
    "data.tokenizer_vocab_size": Scenario(base={"data.tokenizer": "bpe"}, values=[270]),
    "data.num_workers": Scenario(values=[1]),
    "data.validation_split": Scenario(values=[0.5]),
    "model.attention.activation_steps": Scenario(values=[2]),
    "model.attention.activation_window": Scenario(base=CALM_FOLDED, values=[3]),
    "model.attention.max_slope": Scenario(base=CALM_FOLDED, values=[1e-9]),
    "model.attention.max_variation": Scenario(base=CALM_FOLDED, values=[1e-9]),
    "model.attention.ramp_steps": Scenario(base=CALM_FOLDED, values=[3]),
    "model.attention.beta": Scenario(base=RMLP | PRUNED | {"model.mlp.skip": 2.0}),
    "model.attention.budget": Scenario(base=PRUNED),
    "model.attention.drop": Scenario(base=PRUNED | {"optim.learning_rate": 0.3, "train.epochs": 4}),
    "model.attention.keep": Scenario(base={"model.attention.recent": 2}, values=[3]),
    "model.attention.recent": Scenario(base={"model.attention.keep": 2}, values=[3]),
    "model.attention.route_start": Scenario(base=ROUTED, values=[1]),
    "model.attention.route_stop": Scenario(base=ROUTED, values=[2]),
    "model.attention.swapped_layers": Scenario(values=[1]),
    "model.attention.value_rank": Scenario(base={"model.attention.value_rank": 4}, values=[5]),
    "model.mlp.activation": Scenario(base=RMLP, values=["delayed"]),
    "model.mlp.activation_steps": Scenario(base=DELAYED, values=[2]),
    "model.mlp.activation_window": Scenario(base=CALM, values=[3]),
    "model.mlp.conductor": Scenario(base={"model.attention.name": "lens", "model.attention.route": True}),
    "model.mlp.latent_context": Scenario(base=LATENT),
    "model.mlp.latent_strength": Scenario(base=LATENT),
    "model.mlp.max_slope": Scenario(base=CALM, values=[1e-9]),
    "model.mlp.max_variation": Scenario(base=CALM, values=[1e-9]),
    "model.mlp.ramp_steps": Scenario(base=CALM, values=[3]),
    "model.mlp.reciprocal_width": Scenario(base=RMLP, values=[12]),
    "model.mlp.rms_threshold": Scenario(values=[1.0]),
    "model.mlp.mixer": Scenario(base=RMLP),
    "model.mlp.skip": Scenario(base=RMLP, values=[0.0]),
    "model.mlp.tie": Scenario(base=RMLP),
    "model.mlp.token_gate": Scenario(base=RMLP),
    "model.mlp.tying": Scenario(base=LATENT),
    "model.num_heads": Scenario(values=[4]),
    "model.target": Scenario(base=UNSIZED | {"model.target": "{place}/sick.py"}, values=["{place}/mixer.py"]),
    "model.vocab_size": Scenario(values=[300]),
    "optim.decay_coupling": Scenario(base=MIXED),
    "optim.decay_form": Scenario(base={"optim.schedule": "wsd", "optim.decay_ratio": 0.8}),
    "optim.max_grad_norm": Scenario(values=[0.01]),
    "optim.rate_coupling": Scenario(base=MIXED),
    "optim.spam_interval": Scenario(base={"optim.spam_warmup": 1}, values=[3]),
    "optim.spam_spike": Scenario(base={"train.epochs": 20}, values=[0.1]),
    "optim.spam_warmup": Scenario(base={"optim.spam_interval": 4, "optim.spam_warmup": 0, "train.epochs": 4}),
    "prune.every": Scenario(base={"prune.every": 1}, values=[3]),
    "prune.importance_coupling": Scenario(base=MIXED, values=[0.01]),
    "prune.sample": Scenario(base={"model.d_model": 64, "prune.every": 1}, values=[0.9]),
    "prune.schedule": Scenario(base={"prune.every": 1}),
    "prune.start": Scenario(base={"prune.every": 1}),
    "train.examples_per_update": Scenario(base=LEFT_OPEN | {"train.examples_per_update": 4}, values=[6]),
    "train.tokens_per_update": Scenario(base=LEFT_OPEN | {"train.tokens_per_update": 64}, values=[96]),
    "study.name": Scenario(
        proved_by="tests/cli/test_study_command.py::test_a_configuration_can_name_the_study"
    ),
    "train.async_save": Scenario(values=[True]),
    "train.checkpoint_every_epochs": Scenario(base={**RISING, "train.epochs": 4}, values=[2]),
    "train.compile": Scenario(base=SHALLOW),
    "train.compile_dynamic": Scenario(base=SHALLOW),
    "train.compile_fullgraph": Scenario(base=SHALLOW),
    "train.devices": Scenario(values=[2]),
    "train.early_stopping_patience": Scenario(base=WORSE, values=[1]),
    "train.keep_best": Scenario(base=WORSE, values=[3]),
    "train.keep_last": Scenario(base=WORSE, values=[4]),
    "train.lora_alpha": Scenario(needs="peft: pip install 'torchstone[peft]'"),
    "train.lora_dropout": Scenario(needs="peft: pip install 'torchstone[peft]'"),
    "train.lora_rank": Scenario(values=[2], needs="peft: pip install 'torchstone[peft]'"),
    "train.lora_targets": Scenario(values=[("qkv",)], needs="peft: pip install 'torchstone[peft]'"),
    "train.max_nonfinite": Scenario(base=SICK | {"train.on_nonfinite": "skip"}, values=[1], may_fail=True),
    "train.max_time_s": Scenario(values=[1e-6]),
    "train.num_nodes": Scenario(values=[2]),
    "train.on_nonfinite": Scenario(base=SICK, may_fail=True),
    "train.strategy": Scenario(proved_by=TWO_RANKS),
    "tracking.log_every": Scenario(values=[2]),
    "tracking.sinks": Scenario(
        values=[("tensorboard",)], needs="tensorboard: pip install 'torchstone[tensorboard]'"
    ),
}

CLASSIFIER = """
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self, vocab_size=300, num_classes=2):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 8)
        self.position = nn.Embedding(64, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, input_ids):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return {"logits": self.head((self.embedding(input_ids) + self.position(places)).mean(1))}
"""
MIXER = """
import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, vocab_size=300):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.coupling, self.mlp = nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, vocab_size)

    def forward(self, input_ids):
        logits = self.head(torch.tanh(self.mlp(self.coupling(self.embedding(input_ids)))))
        return logits
"""

SICK_MODEL = (
    MIXER.replace("        return logits\n", "")
    + """
        sick = self.training and bool((input_ids[:, 0] % 3 == 0).any())
        return logits * float("nan") if sick else logits
"""
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of data that a scenario asks for."""
    place = tmp_path_factory.mktemp("liveness")
    for folder, word in (("text", "small"), ("other", "quite another")):
        (place / folder).mkdir()
        for number in range(8):
            lines = [f"line {line * number} of the {word} text number {number}" for line in range(8)]
            (place / folder / f"{number}.txt").write_text("\n".join(lines))
    rows = ["text,other_text,kind,other_kind"]
    for number in range(24):
        text = f"a cat sat on {'a very long ' * (number % 4)}mat {number % 8}"
        rows.append(f"{text},dogs {text} dogs dogs dogs,{number % 2},{number % 3 % 2}")
    (place / "texts.csv").write_text("\n".join(rows) + "\n")
    for name, code in (("classifier", CLASSIFIER), ("mixer", MIXER), ("sick", SICK_MODEL)):
        (place / f"{name}.py").write_text(code)
    np.arange(2000, dtype=np.uint32).__mod__(200).astype(np.uint32).tofile(place / "ids.bin")
    return place


@pytest.mark.parametrize("key", KNOBS)
def test_every_key_changes_something_observable(key: str, place: Path) -> None:
    scenario = SCENARIOS.get(key, Scenario())
    if scenario.needs and importlib.util.find_spec(scenario.needs.partition(":")[0]) is None:
        pytest.skip(scenario.needs)
    if len(KNOBS[key].choices) == 1:
        pytest.skip(f"there is only one {key} as yet: {KNOBS[key].choices[0]}")
    if scenario.proved_by:
        require_test(scenario.proved_by)
        return
    complaint = verdict(key, place, scenario)
    assert complaint is None, complaint


def require_test(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert function in [each.name for each in tree.body if isinstance(each, ast.FunctionDef)], name


def test_scenarios_are_of_keys_that_exist() -> None:
    assert not SCENARIOS.keys() - KNOBS.keys()


def test_the_outcome_is_a_function_of_the_configuration(place: Path) -> None:
    """Else every key would seem alive."""
    first, again = outcome({}, place), outcome({}, place)
    assert first.differs(again) == []
    assert first.weights and len(first.rows) > 20 and first.seen["status"] == "completed"
    assert outcome({"check.seed": 0}, place).differs(outcome({"check.seed": 0}, place)) == []


class Dead(Section):
    """`dead.*`: knobs that nothing reads."""

    unread: int = knob(3, help="Nobody reads it.")
    remark: str = knob("", help="Changes nothing, and says so.", cosmetic=True)


class Liar(OptimConfig):
    """`optim.*` with marks that are not true."""

    beta1: float = knob(0.9, help="Decay of the first moment.", ge=0.0, lt=1.0, changes_result=False)
    beta2: float = knob(0.999, help="Decay of the second moment.", ge=0.0, lt=1.0, cosmetic=True)


def test_a_dead_key_is_convicted_and_a_cosmetic_one_is_not(place: Path) -> None:
    sections = {**SECTIONS, "dead": Dead}
    assert "Is it read at all?" in str(verdict("dead.unread", place, Scenario(), sections))
    assert verdict("dead.remark", place, Scenario(), sections) is None


def test_a_mark_that_lies_is_convicted(place: Path) -> None:
    sections = {**SECTIONS, "optim": Liar}
    assert "changes_result=False, yet" in str(verdict("optim.beta1", place, Scenario(), sections))
    assert "cosmetic, yet" in str(verdict("optim.beta2", place, Scenario(), sections))
