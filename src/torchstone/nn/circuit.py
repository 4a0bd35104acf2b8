"""Masks over the keys and values of a trained model, which stays as it is.

    masks = CircuitMasks(sites(model), per="channel")
    with applied(masks.sites, masks(temperature=0.5)):
        logits = model(ids)                  # gradients reach the masks; the model's weights are not touched

    p = sigmoid(theta / temperature),   mask = [p > 1/2], with the gradient of p (straight through)

Each key and value channel of each head (or each head's keys and values as a whole) has one theta. A closed
channel is 0 behind the projection, its bias included: a head whose keys are closed attends evenly, one whose
values are closed gives nothing. Everything is open at first, and a temperature that falls makes p decide.

Bengio et al. 2013 (arXiv:1308.3432) for the straight-through gradient; masks over keys and values as in
mcgrof/knlp: mechint (2025), which began with everything closed.

H counts the heads of keys and values, D the channels of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone._errors import UsageError
from torchstone.nn.attention.causal import CausalSelfAttention

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

PARTS = ("keys", "values")
OPEN = 2.0
"""Every theta at first: p is 0.88 at temperature 1."""


@dataclass(frozen=True)
class Site:
    """Where the keys or the values of one attention come out of a projection."""

    name: str
    """Path of the attention."""
    part: str
    """keys or values."""
    projection: nn.Module
    channels: slice
    """Of the projection's output."""
    num_heads: int
    head_width: int


def sites(model: nn.Module) -> list[Site]:
    """Keys and values of every attention whose projections are known: ours with `qkv`, `k_proj` beside
    `v_proj` (as in Llama), and GPT-2's `c_attn`."""
    found = [site for name, module in model.named_modules() for site in _sites_of(name, module)]
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no keys and values that can be masked",
            why="known are our attentions with one projection qkv, k_proj beside v_proj, GPT-2's c_attn",
            next="mask a model with one of these",
        )
    return found


def _sites_of(name: str, module: Any) -> list[Site]:
    fused = getattr(module, "qkv", None) if isinstance(module, CausalSelfAttention) else None
    if fused is None and type(module).__name__ == "GPT2Attention":
        fused = getattr(module, "c_attn", None)
    if fused is not None:
        heads, C = int(module.num_heads), int(min(fused.weight.shape))  # (3 C, C), or (C, 3 C)
        places = zip(PARTS, (slice(C, 2 * C), slice(2 * C, 3 * C)), strict=True)
        return [Site(name, part, fused, channels, heads, C // heads) for part, channels in places]
    pair = [getattr(module, part, None) for part in ("k_proj", "v_proj")]
    width = getattr(module, "head_dim", None)
    if not isinstance(width, int) or not all(isinstance(each, nn.Linear) for each in pair):
        return []
    return [
        Site(name, part, each, slice(None), each.out_features // width, width)
        for part, each in zip(PARTS, pair, strict=True)
        if isinstance(each, nn.Linear)
    ]


class CircuitMasks(nn.Module):
    """One theta per channel (H, D) or per head (H, 1) of each site."""

    def __init__(self, sites: Sequence[Site], per: str = "channel") -> None:
        super().__init__()
        if per not in ("channel", "head"):
            raise UsageError(f"masks per {per!r} are unknown", next="per='channel' or per='head'")
        self.sites = list(sites)
        self.thetas = nn.ParameterList(
            nn.Parameter(torch.full((each.num_heads, each.head_width if per == "channel" else 1), OPEN))
            for each in self.sites
        )

    def probabilities(self, temperature: float) -> list[Float[Tensor, "H D"]]:
        return [torch.sigmoid(theta / temperature) for theta in self.thetas]

    def forward(self, temperature: float) -> list[Float[Tensor, "H D"]]:
        """Of zeros and ones, with the gradient of the probabilities."""
        return [(p > 0.5).to(p) + (p - p.detach()) for p in self.probabilities(temperature)]

    def kept(self) -> list[Bool[Tensor, "H D"]]:
        """What is open; the temperature does not matter."""
        return [theta.detach() > 0 for theta in self.thetas]

    def expected_share(self, temperature: float) -> Float[Tensor, ""]:
        """Share of the channels that is open by the probabilities: the sparsity that a loss can pay for."""
        weights = [each.head_width * each.num_heads / theta.numel()
                   for each, theta in zip(self.sites, self.thetas, strict=True)]  # fmt: skip
        found = self.probabilities(temperature)
        total = sum((w * p.sum() for w, p in zip(weights, found, strict=True)), torch.zeros(()))
        return total / sum(w * p.numel() for w, p in zip(weights, found, strict=True))


@contextmanager
def applied(sites: Sequence[Site], masks: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the keys and values of `sites` are multiplied by `masks`, (H, D) or (H, 1) each."""
    with ExitStack() as stack:
        for site, mask in zip(sites, masks, strict=True):
            handle = site.projection.register_forward_hook(_masking(site, mask))
            stack.callback(handle.remove)
        yield


def _masking(site: Site, mask: Tensor) -> Any:
    factor = mask.expand(site.num_heads, site.head_width).reshape(-1)

    def hook(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        whole = torch.ones(out.shape[-1], dtype=out.dtype, device=out.device)
        places = torch.arange(out.shape[-1], device=out.device)[site.channels]
        return out * whole.index_copy(0, places, factor.to(out))

    return hook


@torch.no_grad()
def close_naively(model: nn.Module, kept: Sequence[Bool[Tensor, "H D"]]) -> None:
    """The slow twin, for tests: the same by setting rows of the projections of `model` itself to 0."""
    for site, mask in zip(sites(model), kept, strict=True):
        rows = mask.expand(site.num_heads, site.head_width).reshape(-1)
        for name, tensor in site.projection.named_parameters(recurse=False):
            # GPT-2's projection is stored as (in, out).
            is_transposed = name == "weight" and not isinstance(site.projection, nn.Linear)
            part = (
                tensor[..., site.channels] if is_transposed or tensor.dim() == 1 else tensor[site.channels].T
            )
            part.mul_(rows)
