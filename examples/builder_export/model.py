"""A small GPT as a visual builder exports it.

The graph's residual nodes have no code of their own: `forward` asks for their outputs instead, along with
those of other nodes. Called by hand it needs nine tensors; `torchstone.adapt` computes eight of them from
this file.
"""

# Left as the builder writes it.
# ruff: noqa: F841, RET504, RUF059

import torch
import torch.nn as nn


class CustomTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        # embedding_0: vocab_size=4096, seq_length=128, d_model=128
        self.embedding_0_token = nn.Embedding(4096, 128)
        self.embedding_0_pos = nn.Embedding(128, 128)
        self.embedding_0_dropout = nn.Dropout(0.1)
        # block 0
        self.layernorm_0 = nn.LayerNorm(128)
        self.mhsa_0 = nn.MultiheadAttention(128, 4, dropout=0.1, batch_first=True)
        self.layernorm_1 = nn.LayerNorm(128)
        self.ffn_0 = nn.Sequential(
            nn.Linear(128, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 128), nn.Dropout(0.1)
        )
        # block 1
        self.layernorm_2 = nn.LayerNorm(128)
        self.mhsa_1 = nn.MultiheadAttention(128, 4, dropout=0.1, batch_first=True)
        self.layernorm_3 = nn.LayerNorm(128)
        self.ffn_1 = nn.Sequential(
            nn.Linear(128, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 128), nn.Dropout(0.1)
        )
        # output_0
        self.layernorm_4 = nn.LayerNorm(128)
        self.output_0 = nn.Linear(128, 4096, bias=False)

    def forward(
        self,
        input_0_tokens,
        mhsa_0_output,
        residual_0_output,
        ffn_0_output,
        residual_1_output,
        mhsa_1_output,
        residual_2_output,
        ffn_1_output,
        residual_3_output,
    ):
        batch_size, seq_len = input_0_tokens.shape
        positions = torch.arange(seq_len, device=input_0_tokens.device)
        embedding_0 = self.embedding_0_token(input_0_tokens) + self.embedding_0_pos(positions)
        embedding_0 = self.embedding_0_dropout(embedding_0)
        causal_mask = torch.triu(
            torch.ones(seq_len, seq_len, dtype=torch.bool, device=input_0_tokens.device), diagonal=1
        )

        layernorm_0 = self.layernorm_0(embedding_0)
        mhsa_0, _ = self.mhsa_0(
            layernorm_0, layernorm_0, layernorm_0, attn_mask=causal_mask, need_weights=False
        )
        layernorm_1 = self.layernorm_1(residual_0_output)
        ffn_0 = self.ffn_0(layernorm_1)

        layernorm_2 = self.layernorm_2(residual_1_output)
        mhsa_1, _ = self.mhsa_1(
            layernorm_2, layernorm_2, layernorm_2, attn_mask=causal_mask, need_weights=False
        )
        layernorm_3 = self.layernorm_3(residual_2_output)
        ffn_1 = self.ffn_1(layernorm_3)

        layernorm_4 = self.layernorm_4(residual_3_output)
        output_0_logits = self.output_0(layernorm_4)
        return output_0_logits
