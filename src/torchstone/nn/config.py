"""Knobs of the model: which one, and the sizes that override its own."""

from __future__ import annotations

from torchstone.config.schema import Section, knob


class ModelConfig(Section):
    """`model.*`: sizes are None where the model tells them itself."""

    target: str = knob(
        "zoo:gpt-nano", help="The model: a TARGET such as zoo:gpt-nano, path/model.py or hf:NAME."
    )
    vocab_size: int | None = knob(None, help="Rows of the token embedding.", unit="tokens", ge=1)
    max_seq_len: int | None = knob(None, help="Longest sequence the model takes.", unit="tokens", ge=1)
    d_model: int | None = knob(None, help="Width of the residual stream.", unit="channels", ge=1)
    num_layers: int | None = knob(None, help="Number of blocks.", unit="blocks", ge=1)
    num_heads: int | None = knob(None, help="Attention heads per block.", unit="heads", ge=1)
    d_ff: int | None = knob(None, help="Hidden width of the MLP.", unit="channels", ge=1)
    dropout: float | None = knob(None, help="Dropout probability.", unit="probability", ge=0.0, lt=1.0)
