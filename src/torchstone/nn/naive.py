"""The slow twin of `nn/gpt.py`: the same model written to be read, one head and one query at a time.

The twins of the mechanisms stand beside them and are reached through their records.
It takes the parameters of a `GPT` and recomputes its logits without fused kernels, batching tricks,
caches or masks of minus infinity. Tests hold the fast form to it, in values and in gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.mlp.record import Grown

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from torchstone.nn.attention.causal import CausalSelfAttention
    from torchstone.nn.gpt import GPT, Block, GPTConfig
    from torchstone.nn.mlp.dense import DenseMLP


def naive_logits(model: GPT, ids: Int[Tensor, " T"]) -> Float[Tensor, "T V"]:
    """Logits of one sequence without padding, in evaluation mode."""
    attention, mlp = model.config.mechanisms
    x = model.token_embedding.weight[ids]
    if model.position_embedding is not None:
        x = x + model.position_embedding.weight[: len(ids)]
    sent = Handoff()
    for module in model.blocks:
        block = cast("Block", module)
        if attention.hears_confidence(model.config) and mlp.confidence is not None:
            sent = sent._replace(confidence=mlp.confidence(block.mlp))
        attended = attention.naive(block.attention, naive_norm(block.attention_norm, x), model.config, sent)
        attended = attended._replace(projection=block.attention.out.weight)
        x = x + attended.out
        grown = mlp.naive(block.mlp, naive_norm(block.mlp_norm, x), attended, model.config)
        x = x + (1 if attended.mlp_share is None else attended.mlp_share) * grown.out
        sent = grown.sent
    return naive_norm(model.final_norm, x) @ model.head.weight[: model.config.vocab_size].T


def naive_causal(
    layer: CausalSelfAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    """Each query weighs the values up to its own place by the softmax of its scores."""
    q, k, v = naive_qkv(layer, x, config)
    scores = [naive_scores(q[head], k[head]) for head in range(layer.num_heads)]
    weights = [naive_softmax(each) for each in scores]
    mixed = [weights[head] @ v[head] for head in range(layer.num_heads)]
    return Attended(
        out=naive_linear(layer.out, naive_join(mixed, sent)),
        weights=torch.stack(weights).mean(0),
    )


def naive_qkv(
    layer: CausalSelfAttention, x: Float[Tensor, "T C"], config: GPTConfig
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Queries, keys and values of each head, (T, D) each."""
    C, qkv = x.shape[1], naive_linear(layer.qkv, x)
    q, k, v = (naive_heads(qkv[:, part * C : (part + 1) * C], layer.num_heads) for part in range(3))
    return naive_prepared(layer.query_norm, q, config), naive_prepared(layer.key_norm, k, config), v


def naive_prepared(norm: nn.Module | None, heads: list[Tensor], config: GPTConfig) -> list[Tensor]:
    """Queries or keys, normed and turned where the model asks for it."""
    if norm is not None:
        heads = [naive_norm(norm, each) for each in heads]
    return [naive_rope(each) for each in heads] if config.positions == "rope" else heads


def naive_linear(layer: nn.Linear, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C2"]:
    return x @ layer.weight.T if layer.bias is None else x @ layer.weight.T + layer.bias


def naive_heads(x: Float[Tensor, "T C"], num_heads: int) -> list[Float[Tensor, "T D"]]:
    D = x.shape[1] // num_heads
    return [x[:, head * D : (head + 1) * D] for head in range(num_heads)]


def naive_scores(q: Float[Tensor, "T D"], k: Float[Tensor, "T D"]) -> list[Float[Tensor, " t"]]:
    """For each place its scores with the places up to its own."""
    scale = 1 / math.sqrt(q.shape[1])
    return [torch.stack([scale * (q[t] @ k[s]) for s in range(t + 1)]) for t in range(len(q))]


def naive_softmax(scores: list[Float[Tensor, " t"]]) -> Float[Tensor, "T T"]:
    """One row of weights per place, 0 for the places behind it."""
    rows = []
    for row in scores:
        powers = torch.exp(row - row.max())
        rows.append(torch.cat([powers / powers.sum(), row.new_zeros(len(scores) - len(row))]))
    return torch.stack(rows)


def naive_join(mixed: list[Float[Tensor, "T D"]], sent: Handoff) -> Float[Tensor, "T C"]:
    """The heads side by side, each scaled by the gate of the block before, where it sent one."""
    if sent.gate is not None:
        mixed = [sent.gate[head][:, None] * each for head, each in enumerate(mixed)]
    return torch.cat(mixed, dim=-1)


def naive_dense(layer: DenseMLP, x: Float[Tensor, "T C"], attended: Attended, config: GPTConfig) -> Grown:
    return Grown(naive_linear(layer.out, naive_activation(config.activation, naive_linear(layer.widen, x))))


def naive_activation(name: str, wide: Float[Tensor, "T W"]) -> Float[Tensor, "T M"]:
    if name == "gelu":
        return wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    if name == "gelu-tanh":
        return 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    if name == "relu2":
        return torch.where(wide > 0, wide * wide, 0.0)
    half = wide.shape[1] // 2
    gate, value = wide[:, :half], wide[:, half:]
    return gate / (1 + torch.exp(-gate)) * value


def naive_norm(layer: nn.Module, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
    if isinstance(layer, nn.Identity):
        return x
    if isinstance(layer, nn.RMSNorm):
        assert layer.eps is not None
        return x / (x.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight
    assert isinstance(layer, nn.LayerNorm)
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight
    return scaled if layer.bias is None else scaled + layer.bias


def naive_rope(x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
    """Turn the pair (i, i + D/2) at place t by the angle t * 10000^(-2i/D), as a complex number."""
    T, D = x.shape
    pairs = torch.complex(x[:, : D // 2].double(), x[:, D // 2 :].double())
    rows = []
    for t in range(T):
        angles = torch.tensor([t * 10_000.0 ** (-2 * i / D) for i in range(D // 2)], dtype=torch.float64)
        rows.append(pairs[t] * torch.polar(torch.ones_like(angles), angles))
    turned = torch.stack(rows)
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)
