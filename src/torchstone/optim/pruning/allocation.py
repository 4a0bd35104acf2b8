"""How a sparsity is shared out over tensors: groups of them, each with the number of weights that go.

global      one ranking over all                    layer   each tensor alike
depth       deeper tensors more, as bitter4 has it  ratio   so that a ratio of MLP to attention is met
structure   one ranking, with scores multiplied by how much a part of the model matters
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchstone._errors import ConfigError
from torchstone.optim.config import PruneConfig
from torchstone.optim.pruning.selection import apportion
from torchstone.optim.structure import Part, part_of

Share = list[tuple[list[str], int]]

DEEPEST = 0.95
"""No tensor is made sparser than this by depth."""


def allot(sizes: Mapping[str, int], config: PruneConfig, scope: str, progress: float) -> Share:
    """(names, number of weights that go) of each ranking, at `progress` (0 to 1) of the final sparsity."""
    share = config.sparsity * progress
    number = round(share * sum(sizes.values()))
    if scope in ("global", "structure"):
        return [(list(sizes), number)]
    if scope == "layer":
        shares = dict.fromkeys(sizes, share)
    elif scope == "depth":
        shares = by_depth(sizes, share)
    else:
        return _by_part(sizes, config, progress, number)
    counts = apportion(shares, sizes, number)
    return [([name], count) for name, count in counts.items()]


def by_depth(sizes: Mapping[str, int], share: float) -> dict[str, float]:
    """Shares that rise from 0.7 to 1.3 of one another with depth, none over DEEPEST, `share` in all.

    As published the factors are of `share` itself, which misses it wherever tensors differ in size.
    """
    many = max(len(sizes) - 1, 1)
    slope = {name: 0.7 + 0.6 * place / many for place, name in enumerate(sizes)}
    wanted, capped = share * sum(sizes.values()), set[str]()
    limit = max(DEEPEST, share)
    while True:
        free = sum(slope[name] * sizes[name] for name in sizes if name not in capped)
        left = wanted - sum(limit * sizes[name] for name in capped)
        factor = left / free if free else 0.0
        over = {name for name in sizes if name not in capped and factor * slope[name] > limit}
        if not over:
            return {name: limit if name in capped else factor * slope[name] for name in sizes}
        capped |= over


def solve_ratio(attention: int, mlp: int, sparsity: float, ratio: float) -> tuple[float, float]:
    """Sparsities (a, m) of attention and MLP so that what stays is `ratio` MLP weights per attention weight.

    1 - a = (1 - S) (A + M) / (A (1 + r))        1 - m = r (1 - S) (A + M) / (M (1 + r))
    """
    kept = (1.0 - sparsity) * (attention + mlp) / (1.0 + ratio)
    solved = 1.0 - kept / attention, 1.0 - ratio * kept / mlp
    if min(solved) < -1e-9:
        least = max(
            1.0 - attention * (1.0 + ratio) / (attention + mlp),
            1.0 - mlp * (1.0 + ratio) / (ratio * (attention + mlp)),
        )
        raise ConfigError(
            f"no pruning to {sparsity:.0%} leaves {ratio:g} MLP weights per attention weight",
            why=f"there are {attention:,} of attention and {mlp:,} of MLPs; it takes {least:.1%}",
            next=f"--set prune.sparsity={least:.3f} or more, or another prune.ratio",
        )
    return max(solved[0], 0.0), max(solved[1], 0.0)


def _by_part(sizes: Mapping[str, int], config: PruneConfig, progress: float, number: int) -> Share:
    """Attention and MLPs as the ratio has it, all else at the sparsity that was asked for."""
    names: dict[Part, list[str]] = {"attention": [], "mlp": [], "other": []}
    for name in sizes:
        part = part_of(name)
        names[part if part in names else "other"].append(name)
    total = {part: sum(sizes[name] for name in mine) for part, mine in names.items()}
    if not total["attention"] or not total["mlp"]:
        missing = "attention" if not total["attention"] else "MLP"
        raise ConfigError(f"prune.scope = ratio needs attention and MLPs, and there is no {missing} to prune")
    ratio = total["mlp"] / total["attention"] if config.ratio is None else config.ratio
    a, m = solve_ratio(total["attention"], total["mlp"], config.sparsity, ratio)
    # In proportion all the way, for not every sparsity before the last admits the ratio.
    shares: dict[Any, float] = {
        "attention": a * progress,
        "mlp": m * progress,
        "other": config.sparsity * progress,
    }
    counts = apportion(shares, {part: total[part] for part in names}, number)
    return [(mine, counts[part]) for part, mine in names.items() if mine]


def importance(name: str, config: PruneConfig) -> float:
    """What the scores of a tensor are multiplied with in scope `structure`."""
    by_part: dict[Part, float] = {
        "attention": config.importance_attention,
        "mlp": config.importance_mlp,
        "coupling": config.importance_coupling,
    }
    return by_part.get(part_of(name), 1.0)
