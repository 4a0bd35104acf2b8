"""Our GPT in its GPT-2 form computes what the library everybody uses computes, weight for weight."""

from __future__ import annotations

import pytest
import torch

from torchstone.nn.gpt import GPT, GPTConfig

transformers = pytest.importorskip("transformers", reason="pip install 'torchstone[hf]' for the reference")

# (their name, ours); their linear layers keep weights as (in, out).
BLOCK = [
    ("ln_1", "attention_norm"),
    ("attn.c_attn", "attention.qkv"),
    ("attn.c_proj", "attention.out"),
    ("ln_2", "mlp_norm"),
    ("mlp.c_fc", "mlp.widen"),
    ("mlp.c_proj", "mlp.out"),
]


@torch.no_grad()
def test_equals_the_gpt2_of_transformers() -> None:
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=20, n_embd=24, n_layer=3, n_head=4)
    ).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = GPT(GPTConfig(vocab_size=97, max_seq_len=20, d_model=24, num_layers=3, num_heads=4)).eval()

    body = theirs.transformer
    pairs = [
        (body.wte, ours.token_embedding),
        (body.wpe, ours.position_embedding),
        (body.ln_f, ours.final_norm),
    ]
    for their_block, our_block in zip(body.h, ours.blocks, strict=True):
        pairs += [
            (their_block.get_submodule(their_name), our_block.get_submodule(our_name))
            for their_name, our_name in BLOCK
        ]
    for theirs_part, ours_part in pairs:
        is_transposed = type(theirs_part).__name__ == "Conv1D"
        ours_part.weight.copy_(theirs_part.weight.T if is_transposed else theirs_part.weight)
        if getattr(theirs_part, "bias", None) is not None:
            ours_part.bias.copy_(theirs_part.bias)

    assert sum(each.numel() for each in theirs.parameters()) == sum(
        each.numel() for each in ours.parameters()
    )
    ids = torch.randint(0, 97, (3, 20))
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[1, 12:] = 0
    real = mask.bool()
    torch.testing.assert_close(
        ours(ids, attention_mask=mask).logits[real],
        theirs(ids, attention_mask=mask).logits[real],
        atol=1e-5,
        rtol=1e-5,
    )
