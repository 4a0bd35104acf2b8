"""What a `GPT` of a given configuration costs, from its mechanisms' own formulas and without building it.

    costs(GPTConfig(), tokens=1024)      # Costs(tokens=1024, parameters=124439808, ...)

The laws hold every number to the built model: parameters by counting, FLOPs by torch's counter, the cache by
its tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchstone.nn.gpt import GPTConfig


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one model, at one sequence length."""

    tokens: int
    parameters: int
    flops: int
    """Forward pass of one sequence: matrix products, two per multiply-add, causal scores as whole squares."""
    cache_numbers: int
    """Kept while decoding, over all blocks, after `tokens` tokens."""
    materialises: bool
    """A (B, H, T, T) tensor is built."""

    @property
    def flops_per_token(self) -> float:
        return self.flops / self.tokens

    @property
    def cache_numbers_per_token(self) -> float:
        return self.cache_numbers / self.tokens


def costs(config: GPTConfig, tokens: int | None = None) -> Costs:
    """Costs for sequences of `tokens` tokens (None: the longest that the model takes)."""
    tokens = config.max_seq_len if tokens is None else tokens
    attention, mlp = config.mechanisms
    layers = range(config.num_layers)
    flops = sum(attention.flops(config, each, tokens) + mlp.flops(config, each, tokens) for each in layers)
    if mlp.reads_weights(config):
        flops += config.num_layers * 2 * tokens**2 * config.num_heads * attention.score_width(config)
    flops += 2 * tokens * config.d_model * config.num_rows
    cache = sum(attention.cache(config, each, tokens) + mlp.cache(config, each, tokens) for each in layers)
    return Costs(
        tokens=tokens,
        parameters=_parameters(config),
        flops=flops,
        cache_numbers=cache,
        materialises=attention.materialises(config),
    )


def _parameters(config: GPTConfig) -> int:
    attention, mlp = config.mechanisms
    norm = config.d_model * (1 if config.norm == "rmsnorm" else 1 + config.bias)
    found = config.num_rows * config.d_model * (1 if config.tie_word_embeddings else 2)
    found += config.max_seq_len * config.d_model if config.positions == "learned" else 0
    for layer in range(config.num_layers):
        found += attention.parameters(config, layer) + mlp.parameters(config, layer)
        found += (1 + mlp.reads_stream) * norm
    return found + norm
