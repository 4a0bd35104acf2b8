"""Every architecture of the zoo enters by the same door: placed, run, sized and named without being known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from zoo.library import LIBRARY, LibraryModel

import torchstone as ts


def test_population_is_large_and_mixed() -> None:
    assert len(LIBRARY) >= 60
    assert len({each.name for each in LIBRARY}) == len(LIBRARY)
    assert {each.task for each in LIBRARY} == {
        "causal-lm",
        "masked-lm",
        "encoder",
        "classification",
        "token-classification",
        "seq2seq",
        "vision",
        "audio",
        "multimodal",
    }


@pytest.mark.parametrize("record", LIBRARY, ids=lambda each: each.name)
def test_enters_without_being_known(record: LibraryModel) -> None:
    module = record.build()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    adapter = ts.adapt(module)
    unplaced = [each.name for each in adapter.signature if each.required and each.role == "unknown"]
    assert not unplaced
    batch = adapter.examples.batch(2, seed=1)
    with torch.no_grad():
        output = adapter(**batch)
    assert bool(torch.isfinite(output.main).all()) and output.main.shape[0] == 2
    assert adapter.task.kind == record.task
    assert adapter.guess.certain, adapter.guess.reasons
    if record.vocab_size is not None:
        assert adapter.facts.vocab_size == record.vocab_size
    assert not module.training and all(
        torch.equal(value, before[name]) for name, value in module.state_dict().items()
    )
    if record.task == "multimodal":
        assert {"input_ids", "pixel_values"} <= set(batch), "both sides are exercised"
    args, kwargs = adapter.bind(batch)
    with torch.no_grad():
        raw = module(*args, **kwargs)
    again = ts.adapt(module).examples.batch(2, seed=1)
    assert all(torch.equal(again[name], batch[name]) for name in batch)
    assert raw is not None


def test_no_architecture_is_known_by_name() -> None:
    """The words of the zoo's model types appear nowhere in the room; `gpt2:` is a kind of TARGET."""
    room = Path(ts.adapt.__file__).parent
    text = "\n".join(file.read_text().lower() for file in sorted(room.glob("*.py")))
    names = {each.name.split("-")[0] for each in LIBRARY} - {
        "torch",
        "gpt",
        "gpt2",
        "phi",
        "opt",
        "clip",
        "bart",
        "ast",
        "swin",
    }
    assert not {name for name in names if f'"{name}' in text or f"'{name}" in text}
