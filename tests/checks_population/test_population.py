"""No check of tier 1 condemns a healthy architecture: many library models, built tiny and at random.

A `fail` that stays must be justified by a line of that model's own source.
"""

from __future__ import annotations

import pytest
from zoo.library import LIBRARY, LibraryModel

import torchstone as ts

JUSTIFIED = {
    # modeling_mt5.py, _init_weights: init.normal_(module.lm_head.weight, mean=0.0, std=factor * 1.0)
    ("mt5", "init-loss"),
    # modeling_vit_mae.py: noise = torch.rand(batch_size, seq_length, device=sequence.device)
    ("vit-mae", "eval-determinism"),
    # modeling_vilt.py: valid_choice = torch.multinomial(torch.ones(v).float(), max_image_length)
    ("vilt", "eval-determinism"),
    # modeling_rwkv.py, RwkvModel.forward: "`attention_mask` was passed, but it is unused in this model."
    ("rwkv", "padding-leak"),
    # modeling_recurrent_gemma.py, without a mask: x_branch = self.conv_1d(x_branch)[..., :seq_len]
    ("recurrent-gemma", "padding-leak"),
    # modeling_convbert.py: ... = self.key_conv_attn_layer(hidden_states.transpose(1, 2)), without a mask
    ("convbert", "padding-leak"),
}


@pytest.mark.parametrize("model", LIBRARY, ids=[each.name for each in LIBRARY])
def test_a_healthy_model_is_not_condemned(model: LibraryModel) -> None:
    report = ts.check(model.build())
    found = {
        each.id: f"{each.status}: {each.summary} ({each.module})"
        for each in report.checks
        if each.status in ("fail", "error") and (model.name, each.id) not in JUSTIFIED
    }
    assert found == {}


def test_the_population_is_wide() -> None:
    assert len({each.name for each in LIBRARY}) >= 60
    assert len({each.group for each in LIBRARY}) >= 6


def test_every_justification_is_still_needed() -> None:
    """A line is struck from the list as soon as the law has become wiser."""
    models = {each.name: each for each in LIBRARY}
    idle = [
        (name, check)
        for name, check in sorted(JUSTIFIED)
        if ts.check(models[name].build(), only=[check])[check].status not in ("fail", "error")
    ]
    assert idle == []
