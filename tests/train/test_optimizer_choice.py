"""An optimizer in a run: what does not go together is refused before the first file is written."""

from __future__ import annotations

import pytest

from torchstone._errors import ConfigError
from torchstone.config.resolve import resolve
from torchstone.train.assembly import refuse_split
from torchstone.train.config import SECTIONS


@pytest.mark.parametrize("name", ["muon", "sinkgd", "adamwspam"])
def test_what_needs_whole_gradients_does_not_go_with_fsdp(name: str) -> None:
    config = resolve(SECTIONS).with_values({"optim.name": name, "train.strategy": "fsdp"})
    with pytest.raises(ConfigError, match="does not go with"):
        refuse_split(config)
    refuse_split(config.with_values({"train.strategy": "ddp"}))


@pytest.mark.parametrize(
    ("key", "value"), [("optim.beta1", 0.8), ("optim.spam_theta", 3.0), ("optim.muon_steps", 3)]
)
def test_a_knob_of_another_optimizer_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match="no effect"):
        resolve(SECTIONS).with_values({"optim.name": "sgd", key: value})
