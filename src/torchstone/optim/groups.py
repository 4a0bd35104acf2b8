"""Parameter groups by role: weight decay pulls on matrices, not on norms, biases or embeddings.

A tied matrix is one parameter and stands in one group; used as an embedding anywhere, it is an
embedding. Which parameters decay follows GPT-3 (Brown et al. 2020) and the code of nanoGPT, with
embeddings moved to the side that does not decay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import nn

from torchstone._errors import ConfigError, ModelError
from torchstone.optim.structure import Part, part_of

Role = Literal["matrix", "embedding", "norm", "vector"]

RATE = "lr_multiplier"
"""Key of a group whose learning rate is so many times the schedule's. Absent: 1."""
MATRIX = "matrix"
"""Key of a group, where an optimizer treats hidden matrices in its own way: whether these are such."""


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    *,
    rates: Mapping[Part, float] | None = None,
    decays: Mapping[Part, float] | None = None,
    split_matrices: bool = False,
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, each parameter once, in model order: decayed ones first.

    `rates`: multipliers of the learning rate by part of the model; `decays`: weight decay of the matrices of
    a part, instead of `weight_decay`. `split_matrices` marks the groups of hidden matrices (`MATRIX`): 2-D,
    no embedding, not the output layer. A part that the model does not have is a ConfigError.
    """
    rates, decays = dict(rates or {}), dict(decays or {})
    roles = parameter_roles(module)
    # Decay before no decay, as checkpoints have it.
    groups: dict[tuple[bool, float, float, bool], list[nn.Parameter]] = {}
    found: set[Part] = set()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        found.add(part)
        is_matrix = roles[name] == "matrix"
        hidden = split_matrices and is_matrix and parameter.ndim == 2 and part != "head"
        decay = decays.get(part, weight_decay) if is_matrix else 0.0
        groups.setdefault((not is_matrix, decay, rates.get(part, 1.0), hidden), []).append(parameter)
    if not groups:
        raise ModelError(
            f"{type(module).__name__} has no trainable parameter",
            why="every parameter has requires_grad=False, or the model has none",
            next="call .requires_grad_(True) on what shall learn",
        )
    _require_parts(module, {*rates, *decays} - found)
    return [
        {"params": parameters, "weight_decay": decay}
        | ({RATE: rate} if rate != 1.0 else {})
        | ({MATRIX: hidden} if split_matrices else {})
        for (_, decay, rate, hidden), parameters in sorted(groups.items(), key=lambda each: each[0][0])
    ]


def _require_parts(module: nn.Module, missing: set[Part]) -> None:
    if missing:
        raise ConfigError(
            f"{type(module).__name__} has no parameters of its {' or '.join(sorted(missing))} to treat apart",
            why="parts are recognised by the names of modules: attention, attn, mlp, ffn, coupling ...",
            next="take the optim.*_" + ", optim.*_".join(sorted(missing)) + " keys out",
        )


def rate_of(group: Mapping[str, Any], learning_rate: float) -> float:
    """The learning rate of a group, where the schedule says `learning_rate`."""
    return learning_rate * float(group.get(RATE, 1.0))


def parameter_roles(module: nn.Module) -> dict[str, Role]:
    """Role of each parameter, by the first of its names (as `named_parameters` gives it)."""
    first_name: dict[int, str] = {}
    roles: dict[str, Role] = {}
    for owner, leaf, name, parameter in _owned_parameters(module):
        name = first_name.setdefault(id(parameter), name)
        role = _role(owner, leaf, parameter)
        # One use as an embedding makes a tied matrix an embedding, whichever name comes first.
        if name not in roles or role == "embedding":
            roles[name] = role
    return roles


def _owned_parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Parameter]]:
    for path, owner in module.named_modules():
        for leaf, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            yield owner, leaf, f"{path}.{leaf}" if path else leaf, parameter


def _role(owner: nn.Module, leaf: str, parameter: nn.Parameter) -> Role:
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) or "embed" in leaf or leaf.startswith("pos"):
        return "embedding"
    if "norm" in type(owner).__name__.lower():
        return "norm"
    return "matrix" if parameter.ndim >= 2 else "vector"
