"""Normalisation layers by name.

"layernorm" centres and scales (Ba et al. 2016, arXiv:1607.06450); "rmsnorm" only scales (Zhang and
Sennrich 2019, arXiv:1910.07467). Both are torch's own modules; this file only chooses.
"""

from __future__ import annotations

from torch import nn

from torchstone._errors import ConfigError
from torchstone._registry import suggest

NORMS = ("layernorm", "rmsnorm")
EPS = 1e-5


def make_norm(name: str, width: int, eps: float = EPS, bias: bool = True) -> nn.Module:
    """A norm over the last dimension, of `width` channels; an RMSNorm never has a bias."""
    if name == "layernorm":
        return nn.LayerNorm(width, eps=eps, bias=bias)
    if name == "rmsnorm":
        return nn.RMSNorm(width, eps=eps)
    raise ConfigError(
        f"there is no norm named {name!r}",
        why=suggest(name, NORMS),
        next=f"choose one of: {', '.join(NORMS)}",
    )
