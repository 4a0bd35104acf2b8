"""Parts that are switched on while a model trains."""

from __future__ import annotations

from itertools import pairwise

import torch

from torchstone.nn.config import MLPConfig
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.nn.switch import Delayed, VarianceGuided


def factors(switch: VarianceGuided, losses: list[float], *, late: int = 0) -> list[float]:
    """The factor at each step, where each loss is known `late` steps after it was made."""
    found = []
    for step in range(len(losses)):
        for made in range(1, step + 1):
            if made + late == step or (step == len(losses) - 1 and made + late > step):
                switch.at_loss(made, losses[made - 1])
        switch.at_step(step)
        found.append(switch.factor.item())
    return found


def test_delayed_is_off_for_its_steps() -> None:
    switch = Delayed(3)
    assert switch().item() == 1.0  # nobody tells steps
    found = []
    for step in range(5):
        switch.at_step(step)
        found.append(switch().item())
    assert found == [0, 0, 0, 1, 1]


def test_variance_guided_waits_for_a_calm_window_and_then_grows() -> None:
    wild, calm = [9.0, 3.0, 8.0, 1.0], [2.0, 2.01, 1.99, 2.0]
    found = factors(VarianceGuided(4, 0.2, 0.1, 2), wild + calm + calm * 3)
    # Calm at step 8, begins at 12, grown at 14.
    assert found[:13] == [0.0] * 13
    assert found[13:15] == [0.5, 1.0] and set(found[15:]) == {1.0}
    assert found == factors(VarianceGuided(4, 0.2, 0.1, 2), wild + calm + calm * 3, late=3)
    assert set(factors(VarianceGuided(4, 0.2, 0.1, 2), wild * 5)) == {0.0}


def test_a_loss_that_falls_steadily_is_not_calm() -> None:
    falling = [10.0 - 0.2 * step for step in range(20)]
    assert set(factors(VarianceGuided(4, 0.2, 0.1, 0), falling)) == {0.0}
    assert 1.0 in factors(VarianceGuided(4, 0.2, 0.5, 0), falling)


def test_a_window_with_a_refused_step_decides_nothing() -> None:
    switch = VarianceGuided(4, 0.2, 0.1, 0)
    for step in (1, 2, 4, 5, 6, 7):
        switch.at_loss(step, 2.0)
    assert switch.begins.item() == -1
    switch.at_loss(8, 2.0)
    assert switch.begins.item() == 12


def test_what_is_off_neither_counts_nor_learns() -> None:
    torch.manual_seed(0)
    options = MLPConfig(name="r-mlp", reciprocal_width=8, activation="delayed", activation_steps=2)
    model = GPT(GPTConfig(vocab_size=11, max_seq_len=8, d_model=16, num_layers=1, num_heads=2, mlp=options))
    mlp, ids, seen = model.blocks[0].mlp, torch.arange(8)[None] % 11, []
    for step in (1, 2):
        mlp.switch.at_step(step)
        model.zero_grad()
        logits = model(ids).logits
        logits.pow(2).sum().backward()
        seen.append(logits)
        moved = [each.grad.abs().max() > 0 for each in (mlp.reciprocal.weight, mlp.reciprocal_weight)]
        assert moved == [step == 2] * 2
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))
