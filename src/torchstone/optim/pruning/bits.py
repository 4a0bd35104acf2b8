"""Masks as bits: eight elements in a byte, for checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = (1, 2, 4, 8, 16, 32, 64, 128)


def pack_bits(mask: Tensor) -> Tensor:
    """Any shape of 0 and 1 -> ceil(n / 8) bytes; the first element is the lowest bit."""
    flat = mask.flatten().to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    return (flat * torch.tensor(_BITS, dtype=torch.uint8, device=flat.device)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """The mask of that shape, one byte per element."""
    bits = torch.tensor(_BITS, dtype=torch.uint8, device=packed.device)
    flat = (packed[:, None] & bits).ne(0).to(torch.uint8).flatten()
    return flat[: shape.numel()].view(shape)
