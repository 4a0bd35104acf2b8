"""Every task's loss against the library's own, in float64, through adapter and objective as in a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone._errors import DataError, UsageError
from torchstone.adapt.adapter import adapt
from torchstone.data.task import TaskSpec
from torchstone.train.losses import LOSSES, SpecialIds, loss_sum, num_correct
from torchstone.train.objective import ModelObjective

hf = pytest.importorskip("transformers", reason="the comparison needs the extra [hf]")

V, K, B, T = 23, 4, 3, 7
SMALL = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = {**SMALL, "intermediate_size": 16, "max_position_embeddings": 16, "num_labels": K}
IGNORE = torch.tensor([[False] * 5 + [True] * 2, [True] + [False] * 6, [False] * 7])


def ids(seed: int = 0) -> Tensor:
    return torch.randint(1, V, (B, T), generator=torch.Generator().manual_seed(seed))


def some_ignored(labels: Tensor) -> Tensor:
    return labels.masked_fill(IGNORE, -100)


def bert(kind: str, **changes: Any) -> Any:
    return lambda: getattr(hf, kind)(hf.BertConfig(**{**BERT, **changes}))


def gpt2() -> nn.Module:
    config = hf.GPT2Config(vocab_size=V, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    return hf.GPT2LMHeadModel(config)


def t5() -> nn.Module:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=V, d_model=8, d_ff=16, d_kv=4, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )


def vit() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return hf.ViTForImageClassification(hf.ViTConfig(image_size=8, patch_size=4, num_labels=K, **sizes))


def mixtral() -> nn.Module:
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(
            **SMALL,
            intermediate_size=16,
            num_key_value_heads=2,
            num_local_experts=3,
            max_position_embeddings=16,
            output_router_logits=True,
            router_aux_loss_coef=0.3,
            experts_implementation="eager",  # the grouped kernel knows no float64
        )
    )


CLASSES = torch.tensor([3, 0, 1])
CASES: dict[str, tuple[Any, str, dict[str, Tensor]]] = {
    "causal-lm": (gpt2, "causal-lm", {"input_ids": ids(), "labels": some_ignored(ids())}),
    "mixture": (mixtral, "causal-lm", {"input_ids": ids(), "labels": some_ignored(ids())}),
    "masked-lm": (bert("BertForMaskedLM"), "masked-lm", {"input_ids": ids(), "labels": some_ignored(ids(1))}),
    "seq2seq": (t5, "seq2seq", {"input_ids": ids(), "labels": some_ignored(ids(1))}),
    "classes": (
        bert("BertForSequenceClassification"),
        "classification",
        {"input_ids": ids(), "labels": CLASSES},
    ),
    "several": (
        bert("BertForSequenceClassification"),
        "classification",
        {"input_ids": ids(), "labels": torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]])},
    ),
    "numbers": (
        bert("BertForSequenceClassification", num_labels=1),
        "regression",
        {"input_ids": ids(), "labels": torch.tensor([0.5, -2.0, 1.0])},
    ),
    "tokens": (
        bert("BertForTokenClassification"),
        "token-classification",
        {"input_ids": ids(), "labels": some_ignored(ids(1) % K)},
    ),
    "answers": (
        bert("BertForQuestionAnswering", num_labels=2),
        "question-answering",
        # The last answer lies behind the end of the text and does not count.
        {
            "input_ids": ids(),
            "start_positions": torch.tensor([1, 0, T]),
            "end_positions": torch.tensor([2, 4, T + 1]),
        },
    ),
    "images": (
        vit,
        "vision",
        {"pixel_values": torch.randn(B, 3, 8, 8, dtype=torch.float64), "labels": CLASSES},
    ),
}


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library scores logits in float32 even in a float64 model; here it keeps what it has."""
    plain = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda self: self if self.dtype == torch.float64 else plain(self))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("case", list(CASES))
def test_loss_and_gradient_are_those_of_the_library(case: str) -> None:
    build, kind, batch = CASES[case]
    torch.manual_seed(0)
    model = build().double().eval()
    adapter = adapt(model)
    assert adapter.task.kind == kind or case in ("several", "numbers")
    special = SpecialIds(vocab_size=V, decoder_start=adapter.facts.decoder_start_token_id, pad=0)
    notes: list[str] = []
    objective = ModelObjective(
        adapter, LOSSES.get(kind), special, num_outputs=K, model_config=model.config.to_dict(), notes=notes
    )

    labels = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    theirs = model(**labels).loss
    expected = torch.autograd.grad(theirs, list(model.parameters()), allow_unused=True)

    prepared = objective.prepare(batch)
    ours = objective.loss_sum(prepared) / objective.count(prepared)
    found = torch.autograd.grad(ours, list(model.parameters()), allow_unused=True)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    for (name, _), mine, other in zip(model.named_parameters(), found, expected, strict=True):
        assert (mine is None) == (other is None), name
        if mine is not None and other is not None:
            assert torch.allclose(mine, other, rtol=1e-10, atol=1e-14), name
    measured = objective.measure(prepared)
    assert ("accuracy" in measured) == (kind != "regression")
    assert any("aux_loss x 0.3" in note for note in notes) == (case == "mixture")


@pytest.mark.usefixtures("in_float64")
def test_validation_leaves_the_router_loss_out() -> None:
    build, kind, batch = CASES["mixture"]
    model = build().double().eval()
    objective = ModelObjective(adapt(model), LOSSES.get(kind), model_config=model.config.to_dict())
    prepared = objective.prepare(batch)
    with torch.no_grad():
        measured = float(objective.measure(prepared)["loss"]) / prepared.targets
        plain = model(**batch, output_router_logits=False).loss
    assert measured == pytest.approx(plain.item(), rel=1e-10)


def test_a_router_loss_that_the_model_keeps_to_itself_is_told() -> None:
    build, kind, batch = CASES["mixture"]
    model = build()
    model.config.output_router_logits = False
    notes: list[str] = []
    objective = ModelObjective(
        adapt(model), LOSSES.get(kind), model_config=model.config.to_dict(), notes=notes
    )
    for _ in range(2):
        objective.loss_sum(objective.prepare(batch))
    assert len(notes) == 1 and "not trained on" in notes[0]


def test_padding_is_no_target() -> None:
    """Labels that a collator pads with -100 change nothing, whatever the logits there are."""
    rule = LOSSES.get("causal-lm")
    logits, labels = torch.randn(2, 5, V), torch.randint(V, (2, 5))
    longer = {"labels": torch.cat([labels, torch.full((2, 3), -100)], dim=1)}
    padded = torch.cat([logits, torch.randn(2, 3, V)], dim=1)
    assert rule.count(longer) == rule.count({"labels": labels}) == 8
    assert torch.equal(loss_sum(rule, padded, longer), loss_sum(rule, logits, {"labels": labels}))


def test_class_weights_count_more_and_keep_the_number_of_targets() -> None:
    rule = LOSSES.get("classification")
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, -100, 1, 1])
    weights = torch.tensor([0.5, 2.0, 0.0])
    counted = labels != -100
    torch_mean = nn.functional.cross_entropy(logits, labels, weight=weights)
    ours = loss_sum(rule, logits, {"labels": labels}, weights)
    assert torch.allclose(ours, torch_mean * weights[labels[counted]].sum())
    assert rule.count({"labels": labels}) == 5
    several = (torch.rand(6, 3) > 0.5).float()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, several, weights, reduction="sum")
    assert torch.allclose(loss_sum(rule, logits, {"labels": several}, weights), expected)

    task = TaskSpec(kind="classification", num_classes=3, class_weights=(0.5, 2.0, 0.0))
    assert dataclasses.replace(task, class_weights=None).class_weights is None
    for weights_given, message in (((1.0,), "do not fit"), ((1.0, -1.0, 1.0), "cannot be used")):
        with pytest.raises(UsageError, match=message):
            TaskSpec(kind="classification", num_classes=3, class_weights=weights_given)
    with pytest.raises(UsageError, match="no effect"):
        TaskSpec(kind="causal-lm", class_weights=(1.0, 1.0))


def test_answers_are_read_and_counted() -> None:
    rule = LOSSES.get("question-answering")
    batch = {
        "input_ids": torch.zeros(2, 5, dtype=torch.long),
        "start_positions": torch.tensor([[1], [-100]]),
        "end_positions": torch.tensor([[2], [7]]),
    }
    logits = torch.full((2, 2, 5), -5.0)
    logits[0, 0, 1] = logits[0, 1, 3] = 5.0
    assert rule.count(batch) == 2
    assert int(num_correct(rule, logits, batch)) == 1  # type: ignore[arg-type]
    with pytest.raises(DataError, match="end_positions is missing"):
        rule.count({"input_ids": batch["input_ids"], "start_positions": batch["start_positions"]})


def test_a_class_that_the_model_lacks_is_told() -> None:
    objective = ModelObjective(lambda x: nn.functional.one_hot(x, 3).double(), LOSSES.get("classification"))
    batch = objective.prepare({"x": torch.tensor([0, 1]), "labels": torch.tensor([0, 3])})
    with pytest.raises(DataError, match="class that the model does not have"):
        objective.loss_sum(batch)
