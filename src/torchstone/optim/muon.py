"""Muon: hidden matrices take steps of equal spectral size, made orthogonal by a Newton-Schulz iteration.

torch's own, for 2-D matrices between embedding and output layer; embeddings, the output layer, norms, biases
and tensors of more dimensions go by AdamW. With `muon_adjust=match_rms_adamw` a step has the RMS of a step of
AdamW, so that one learning rate and one weight decay serve both halves.
"""

from __future__ import annotations

from typing import Any

import torch

from torchstone.optim.adamw import adam_arguments
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import MATRIX
from torchstone.optim.matrix_split import MatrixSplit


class Muon(MatrixSplit):
    """`torch.optim.Muon` and `torch.optim.AdamW` as one optimizer."""

    matrix_class = torch.optim.Muon


def muon(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    return Muon(
        groups,
        matrix={
            "lr": config.learning_rate,
            "momentum": config.muon_beta,
            "ns_steps": config.muon_steps,
            "adjust_lr_fn": config.muon_adjust,
        },
        rest=adam_arguments([group for group in groups if not group[MATRIX]], config),
    )
