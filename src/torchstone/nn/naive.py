"""The slow twin of `nn/gpt.py`: the same model written to be read, one head and one query at a time.

It takes the parameters of a `GPT` and recomputes its logits without fused kernels, batching tricks,
caches or masks of minus infinity. Tests hold the fast form to it, in values and in gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from torchstone.nn.norms import EPS

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from torchstone.nn.attention.causal import CausalSelfAttention
    from torchstone.nn.gpt import GPT, Block
    from torchstone.nn.mlp.dense import DenseMLP


def naive_logits(model: GPT, ids: Int[Tensor, " T"]) -> Float[Tensor, "T V"]:
    """Logits of one sequence without padding, in evaluation mode."""
    x = model.token_embedding.weight[ids]
    if model.position_embedding is not None:
        x = x + model.position_embedding.weight[: len(ids)]
    for module in model.blocks:
        block = cast("Block", module)
        x = x + naive_attention(
            block.attention, naive_norm(block.attention_norm, x), model.config.positions == "rope"
        )
        x = x + naive_mlp(block.mlp, naive_norm(block.mlp_norm, x))
    return naive_norm(model.final_norm, x) @ model.head.weight.T


def naive_attention(layer: CausalSelfAttention, x: Float[Tensor, "T C"], rope: bool) -> Float[Tensor, "T C"]:
    """Each query weighs the values up to its own place by the softmax of its scores."""
    T, C = x.shape
    D = layer.head_width
    qkv = x @ layer.qkv.weight.T + layer.qkv.bias
    heads = []
    for head in range(layer.num_heads):
        columns = slice(head * D, (head + 1) * D)
        q, k, v = (qkv[:, part * C : (part + 1) * C][:, columns] for part in range(3))
        if rope:
            q, k = naive_rope(q), naive_rope(k)
        rows = []
        for t in range(T):
            scores = torch.stack([q[t] @ k[s] / math.sqrt(D) for s in range(t + 1)])
            weights = torch.exp(scores - scores.max())
            weights = weights / weights.sum()
            rows.append(torch.stack([weights[s] * v[s] for s in range(t + 1)]).sum(0))
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=-1) @ layer.out.weight.T + layer.out.bias


def naive_mlp(layer: DenseMLP, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
    wide = x @ layer.widen.weight.T + layer.widen.bias
    bent = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    return bent @ layer.out.weight.T + layer.out.bias


def naive_norm(layer: nn.Module, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
    if isinstance(layer, nn.RMSNorm):
        return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * layer.weight
    assert isinstance(layer, nn.LayerNorm)
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * layer.weight + layer.bias


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
