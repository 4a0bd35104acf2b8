"""From scores to masks: which of the weights go, so that exactly so many do.

All functions take scores by tensor (float32, any shape) and give boolean masks, True where a weight stays.
A weight that must not come back has the score -inf. Of equal scores the first in order go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Scores = Mapping[str, Tensor]
Masks = dict[str, Tensor]

LEAST_SAMPLE = 4096


def keep_best(scores: Scores, number: int) -> Masks:
    """Masks that drop the `number` lowest of all scores together."""
    flat = torch.cat([each.flatten() for each in scores.values()])
    keep = _kept(flat, number)
    parts = torch.split(keep, [each.numel() for each in scores.values()])
    return {name: part.view(each.shape) for (name, each), part in zip(scores.items(), parts, strict=True)}


def _kept(flat: Tensor, number: int) -> Tensor:
    keep = torch.ones_like(flat, dtype=torch.bool)
    if number <= 0:
        return keep
    threshold = _smallest(flat, min(number, flat.numel()))
    keep = flat > threshold
    # Of those at the threshold only as many go as are wanted.
    spare = keep.numel() - int(keep.count_nonzero()) - number
    if spare > 0:
        equal = (flat == threshold).nonzero().flatten()
        keep[equal[len(equal) - spare :]] = True
    return keep


def _smallest(flat: Tensor, number: int) -> Tensor:
    """The value that has `number` - 1 before it."""
    if flat.device.type != "cpu":  # a deterministic run refuses kthvalue there, for the sake of its indices
        return flat.sort().values[number - 1]
    # What is pruned takes no part in the ranking: a partition is slow where many are equal.
    ranked = flat.numpy()
    ranked = ranked[ranked > -math.inf]
    place = number - 1 - (flat.numel() - len(ranked))
    return flat.new_tensor(np.partition(ranked, place)[place] if place >= 0 else -math.inf)


def keep_above_sample(scores: Scores, share: float, sampled: float, seed: int) -> Masks:
    """Masks at the quantile of a random sample, that drop `share` of all to within `most_missed` weights.

    Where so many scores are equal that no threshold does that, the masks are exact.
    """
    flat = torch.cat([each.flatten() for each in scores.values()])
    size = sample_size(flat.numel(), sampled)
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(flat.numel(), (size,), generator=generator).to(flat.device)
    number = round(share * size)
    if number == 0:
        return {name: torch.ones_like(each, dtype=torch.bool) for name, each in scores.items()}
    threshold = _smallest(flat[places], number)
    masks = {name: each > threshold for name, each in scores.items()}
    dropped = flat.numel() - sum(int(each.count_nonzero()) for each in masks.values())
    if abs(dropped - share * flat.numel()) > most_missed(share, flat.numel(), sampled):
        return keep_best(scores, round(share * flat.numel()))
    return masks


def sample_size(total: int, sampled: float) -> int:
    return max(math.ceil(sampled * total), LEAST_SAMPLE)


def standard_error(share: float, total: int, sampled: float) -> float:
    """Of the share that a sampled threshold drops."""
    return math.sqrt(share * (1.0 - share) / sample_size(total, sampled))


def most_missed(share: float, total: int, sampled: float) -> int:
    """Weights by which masks of a sample may miss `share`: five standard errors."""
    return math.ceil(5.0 * standard_error(share, total, sampled) * total) + 1


def keep_n_of_m(scores: Tensor, keep: int, group: int) -> Tensor:
    """Of every `group` neighbours along the last dimension the `keep` best stay."""
    blocks = scores.reshape(*scores.shape[:-1], -1, group)
    best = blocks.argsort(dim=-1, descending=True, stable=True)[..., :keep]
    mask = torch.zeros_like(blocks, dtype=torch.bool)
    return mask.scatter_(-1, best, True).reshape(scores.shape)


def keep_best_units(scores: Scores, units: Mapping[str, Tensor], number: int) -> Masks:
    """Whole units (channels, heads) go, lowest mean score first, until `number` weights have gone.

    `units`: the number of the unit of each weight, in a shape that expands to that of the scores. The unit
    that would pass `number` still goes if that brings the count nearer to it.
    """
    # On the host, where sums have one order: ranks must come to the same masks.
    many = 1 + max(int(each.max()) for each in units.values())
    total, size = (torch.zeros(many, dtype=torch.float64) for _ in range(2))
    gone = torch.zeros(many, dtype=torch.bool)
    for name, each in scores.items():
        unit = units[name].expand(each.shape).flatten().cpu()
        flat = each.flatten().cpu().double()
        gone[unit[flat == -math.inf]] = True
        total.index_add_(0, unit, flat.masked_fill(flat == -math.inf, 0.0))
        size.index_add_(0, unit, torch.ones_like(flat))
    worth = (total / size).masked_fill(gone, -math.inf)
    order = worth.argsort(stable=True)
    dropped = nearest(size[order].long().tolist(), number)
    keep = torch.ones(many, dtype=torch.bool)
    keep[order[:dropped]] = False
    return {
        name: keep.to(each.device)[units[name]].expand(each.shape).clone() for name, each in scores.items()
    }


def nearest(sizes: Sequence[int], number: int) -> int:
    """How many of the first sizes add up nearest to `number`."""
    total = 0
    for count, size in enumerate(sizes):
        if abs(total + size - number) > abs(total - number):
            return count
        total += size
    return len(sizes)


def apportion(shares: Mapping[str, float], sizes: Mapping[str, int], number: int) -> dict[str, int]:
    """How many go of each tensor: its share of its size, rounded so that they add up to `number`."""
    exact = {name: min(max(shares[name], 0.0), 1.0) * size for name, size in sizes.items()}
    counts = {name: math.floor(each) for name, each in exact.items()}
    by_rest = sorted(exact, key=lambda name: counts[name] - exact[name])
    missing = number - sum(counts.values())
    for name in by_rest:
        if missing <= 0:
            break
        if counts[name] < sizes[name]:
            counts[name] += 1
            missing -= 1
    return counts
