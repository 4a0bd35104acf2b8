"""The hidden width that gives a model's MLPs so many times the parameters of its attention.

    width_for_ratio(GPTConfig(mlp=MLPConfig(name="dense", ratio=2.5, multiple_of=64)))    # 3840

What is counted are the parameters of the mechanisms that were chosen, of all blocks, biases included. The
ratio is a choice of the experimenter: the RATIO study of mcgrof/AdamWPrune (2025) calls 2.5 golden. That
quality depends on such a ratio is studied by Bian et al. 2025, arXiv:2510.18245.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torchstone._errors import ConfigError
from torchstone.nn.config import MLPConfig

if TYPE_CHECKING:
    from torchstone.nn.gpt import GPTConfig


def width_for_ratio(config: GPTConfig) -> int:
    """The multiple of `mlp.multiple_of` that comes nearest to `mlp.ratio`; ConfigError where none can."""
    options = config.mlp
    assert options.ratio is not None
    attention, mlp = config.mechanisms
    layers = range(config.num_layers)
    target = options.ratio * sum(attention.parameters(config, each) for each in layers)

    def parameters(width: int) -> int:
        sized = replace(config, d_ff=width, mlp=without_ratio(options))
        return sum(mlp.parameters(sized, each) for each in layers)

    # Every MLP that is there has some parameters per channel, and some beside them.
    step = options.multiple_of
    per_step = parameters(2 * step) - parameters(step)
    if not per_step:
        raise ConfigError(f"model.mlp.ratio={options.ratio} sizes nothing of MLP {mlp.name}")
    found = round(1 + (target - parameters(step)) / per_step)
    if found < 1:
        raise ConfigError(
            f"model.mlp.ratio={options.ratio} leaves no width for the MLP",
            why=f"it asks for {target:,.0f} parameters, and {step} channels have {parameters(step):,}",
            next="choose a larger ratio, a smaller multiple_of, or an MLP with smaller parts",
        )
    return found * step


def without_ratio(options: MLPConfig) -> MLPConfig:
    """The same MLP, to be sized by d_ff."""
    said = options.model_fields_set - {"ratio", "multiple_of"}
    return MLPConfig(**{name: getattr(options, name) for name in said})
