"""Parameter groups by role: weight decay pulls on matrices, not on norms, biases or embeddings.

A tied matrix is one parameter and stands in one group; used as an embedding anywhere, it is an
embedding. Which parameters decay follows GPT-3 (Brown et al. 2020) and the code of nanoGPT, with
embeddings moved to the side that does not decay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from torchstone._errors import ModelError

Role = Literal["matrix", "embedding", "norm", "vector"]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups (decay, no decay) of the trainable parameters, each parameter once, in model order."""
    roles = parameter_roles(module)
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (decayed if roles[name] == "matrix" else spared).append(parameter)
    if not decayed and not spared:
        raise ModelError(
            f"{type(module).__name__} has no trainable parameter",
            why="every parameter has requires_grad=False, or the model has none",
            next="call .requires_grad_(True) on what shall learn",
        )
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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
