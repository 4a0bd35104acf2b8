"""Which weights are pruned: matrices and convolutions that no embedding shares, and not the output layer.

Norms and biases are few and carry much; a row of an embedding is a word. A head that shares its matrix with
the embedding is an embedding (see `groups.py`). `prune.head` takes the output layer in, tied or not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.optim.config import PruneConfig
from torchstone.optim.groups import parameter_roles
from torchstone.optim.structure import part_of

_OUTPUTS = {"out", "o_proj", "c_proj", "out_proj", "proj", "dense", "wo"}
"""Names of the projection that mixes the heads: its columns belong to them."""


def prunable(module: nn.Module, config: PruneConfig) -> dict[str, nn.Parameter]:
    """The weights that masks are made for, in model order, by name."""
    roles = parameter_roles(module)
    heads = _output_layers(module) if config.head else set()
    found = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        and ((roles[name] == "matrix" and part_of(name) != "head") or id(parameter) in heads)
    }
    if config.pattern == "heads":
        found = {name: each for name, each in found.items() if name in head_units(module, found)}
    elif ":" in config.pattern:
        found = {name: each for name, each in found.items() if each.ndim == 2}
        _require_whole_groups(found, config.pattern)
    if not found:
        raise ConfigError(
            f"{type(module).__name__} has nothing to prune by prune.pattern = {config.pattern}",
            why="what is pruned are matrices that learn, without embeddings and output layer"
            + (", in modules with num_heads" if config.pattern == "heads" else ""),
            next="--set prune.head=true, another prune.pattern, or prune.method=none",
        )
    return found


def _output_layers(module: nn.Module) -> set[int]:
    """The weights of linear layers that are called an output layer."""
    return {
        id(each.weight)
        for name, each in module.named_modules()
        if isinstance(each, nn.Linear) and part_of(f"{name}.weight") == "head"
    }


def _require_whole_groups(found: dict[str, nn.Parameter], pattern: str) -> None:
    group = n_of_m(pattern)[1]
    odd = [name for name, each in found.items() if each.shape[-1] % group]
    if odd:
        raise ConfigError(
            f"prune.pattern = {pattern} needs rows whose length is a multiple of {group}",
            why=f"{odd[0]} has rows of {found[odd[0]].shape[-1]}",
            next="choose sizes that are, or --set prune.pattern=weights",
        )


def n_of_m(pattern: str) -> tuple[int, int]:
    """`2:4` -> (2, 4): so many of so many neighbours stay."""
    keep, _, group = pattern.partition(":")
    return int(keep), int(group)


def channel_units(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Each output channel (a row of a linear layer) is a unit; numbers go through all tensors."""
    units, first = {}, 0
    for name, each in weights.items():
        rows = torch.arange(first, first + each.shape[0], device=each.device)
        units[name] = rows.view(-1, *[1] * (each.ndim - 1))
        first += each.shape[0]
    return units


def head_units(module: nn.Module, weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Each attention head is a unit: its rows of q, k and v, its columns of the output projection."""
    units: dict[str, Tensor] = {}
    first = 0
    for path, owner in module.named_modules():
        num_heads = getattr(owner, "num_heads", None) or getattr(owner, "n_head", None)
        if not isinstance(num_heads, int):
            continue
        mine = {
            name: each
            for name, each in weights.items()
            # a block that counts its heads itself has an MLP beside them
            if name.startswith(f"{path}.") and each.ndim == 2 and part_of(name) != "mlp"
        }
        for name, each in mine.items():
            is_output = name.removesuffix(".weight").rpartition(".")[2] in _OUTPUTS
            length = each.shape[1] if is_output else each.shape[0]
            width = _head_width(owner) or each.shape[0 if is_output else 1] // num_heads
            if width == 0 or length % (width * num_heads):
                continue  # heads that share keys and values are not one head's
            unit = first + torch.arange(length, device=each.device) // width % num_heads
            units[name] = unit[None, :] if is_output else unit[:, None]
        first += num_heads
    return units


def _head_width(owner: nn.Module) -> int | None:
    """Channels of a head, where a module says so."""
    said = (getattr(owner, name, None) for name in ("head_width", "head_dim", "head_size"))
    return next((each for each in said if isinstance(each, int)), None)
