"""Sampling from a language model: context cropped to the model's limit, temperature 0 is greedy."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone._errors import ModelError
from torchstone.adapt.adapter import Adapter


def generate(
    adapter: Adapter,
    ids: Tensor,
    max_new_tokens: int = 50,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    eos_token_id: int | None = None,
) -> Tensor:
    """`ids` (B, T) and up to `max_new_tokens` (B, n) more; mode and generators stay as they were."""
    if adapter.task.kind != "causal-lm":
        raise ModelError(
            f"cannot generate: the task is {adapter.task.kind}",
            why="only a causal language model continues a text",
            next="adapt(module, task='causal-lm') if it is one",
        )
    if temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or more, not {temperature}")
    generator = torch.Generator(device=ids.device)
    generator.manual_seed(torch.seed() if seed is None else seed)
    modes = [(each, each.training) for each in adapter.module.modules()]
    limit = adapter.facts.max_seq_len
    ended = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
    adapter.module.eval()
    try:
        with torch.no_grad():
            for _ in range(max_new_tokens):
                context = ids if limit is None else ids[:, -limit:]
                logits = adapter(input_ids=context).main[:, -1].float()
                chosen = _choose(logits, temperature, top_k, generator)
                if eos_token_id is not None:
                    chosen = torch.where(ended[:, None], eos_token_id, chosen)
                    ended |= chosen[:, 0] == eos_token_id
                ids = torch.cat([ids, chosen], dim=1)
                if bool(ended.all()):
                    break
    finally:
        for each, training in modes:
            each.training = training
    return ids


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
