"""A model without the units that pruning made zero: smaller tensors, the same answers.

    small = shrink(model, lambda module: module(images))
    small.module, small.removed, small.parameters

`prune.pattern = channels` or `heads` leaves rows and heads of zeros in tensors as large as before. A head
goes with its rows of q, k and v and its columns of the output projection. Of a channel, Torch-Pruning's
dependency graph tells which slices of which tensors it is (Fang et al. 2023, DepGraph, arXiv:2301.12900;
extra [prune]); it still has a bias, which what follows bends into a constant, and the layers that read that
constant get it into their own bias. Single zeros and N of M stay: no dense tensor is without them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._errors import ModelError, in_one_line
from torchstone._optional import require
from torchstone.optim.pruning.targets import head_units

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ROUNDINGS = 64
"""Rounding errors of the largest answer by which the smaller model may differ."""
_ACROSS_CHANNELS = ("softmax", "dotproduct", "bmm", "layernorm", "rmsnorm", "groupnorm")
"""Operations in which one channel changes what another one gives."""


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """The smaller model, in evaluation mode, and what became of it."""

    module: nn.Module
    removed: dict[str, int]
    """Layer -> channels that it lost; attention -> heads."""
    kept: dict[str, str] = field(default_factory=dict)
    """Layer -> why units of zeros stay in it."""
    parameters: tuple[int, int]
    """Before and after."""
    difference: float
    """Largest difference of an answer to the example."""


def shrink(module: nn.Module, answer: Callable[[nn.Module], Tensor]) -> Shrunk:
    """A smaller copy of `module`; `answer` calls a module with an example and gives its main output.

    The example should have several rows. A ModelError tells that the copy answers otherwise, as where the
    model's code has sizes of its own.
    """
    small = copy.deepcopy(module).eval()
    heads = dict(_without_heads(small))
    channels, kept = _without_channels(small, answer)
    return Shrunk(
        module=small,
        removed=heads | channels,
        kept=kept,
        parameters=(_size(module), _size(small)),
        difference=_compared(module, small, answer),
    )


def _size(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _compared(module: nn.Module, small: nn.Module, answer: Callable[[nn.Module], Tensor]) -> float:
    with _evaluating(module), torch.no_grad():
        before = answer(module)
        try:
            after = answer(small)
        except Exception as error:
            raise ModelError(
                f"{type(module).__name__} cannot be made smaller: without its zeros it no longer runs",
                why=f"its code has sizes of its own ({in_one_line(error)})",
            ) from error
    apart = float((before - after).abs().max()) if before.shape == after.shape else float("inf")
    if not apart <= ROUNDINGS * torch.finfo(before.dtype).eps * max(1.0, float(before.abs().max())):
        raise ModelError(
            f"{type(module).__name__} cannot be made smaller: it would answer otherwise (by {apart:.2g})",
            why="a unit of zeros is read in a way that its graph does not show",
        )
    return apart


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    was = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in was.items():
            each.training = mode


# --- heads --------------------------------------------------------------------------------------


def _without_heads(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Attention -> how many heads it lost: those whose columns of the output projection are zero."""
    units, done = _heads(module), set()
    for path, owner in reversed(list(module.named_modules())):  # the inner ones first
        mine = {
            name.removesuffix(".weight"): unit
            for name, unit in units.items()
            if name.startswith(f"{path}.") and name not in done
        }
        number = _num_heads(owner)
        found = {name: module.get_submodule(name) for name in mine}
        layers = {name: each for name, each in found.items() if isinstance(each, nn.Linear)}
        if number is None or not mine or len(layers) < len(mine):
            continue
        done |= {f"{name}.weight" for name in mine}
        first = min(int(unit.min()) for unit in mine.values())
        of_head = {name: unit.flatten() - first for name, unit in mine.items()}
        outputs = [name for name, unit in mine.items() if unit.shape[0] == 1]
        idle = [
            _zero_inputs(layers[name])[of_head[name] == head].all()
            for head in range(number)
            for name in outputs
        ]
        gone = torch.tensor(idle).view(number, -1).all(dim=1).nonzero().flatten()[: number - 1]
        if not outputs or not len(gone):
            continue
        for name, layer in layers.items():
            _slice(layer, ~torch.isin(of_head[name], gone), dim=1 if name in outputs else 0)
        for attribute in ("num_heads", "n_head"):
            if hasattr(owner, attribute):
                setattr(owner, attribute, number - len(gone))
        yield path, len(gone)


def _heads(module: nn.Module) -> dict[str, Tensor]:
    return head_units(module, {name: each for name, each in module.named_parameters() if each.ndim == 2})


def _num_heads(owner: nn.Module) -> int | None:
    found = getattr(owner, "num_heads", None) or getattr(owner, "n_head", None)
    return found if isinstance(found, int) else None


def _slice(layer: nn.Linear, keep: Tensor, dim: int) -> None:
    places = keep.nonzero().flatten().to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(dim, places))
    if dim == 0 and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[places])
    layer.out_features, layer.in_features = layer.weight.shape


# --- channels -----------------------------------------------------------------------------------


def _without_channels(
    module: nn.Module, answer: Callable[[nn.Module], Tensor]
) -> tuple[dict[str, int], dict[str, str]]:
    """(layer -> output channels that it lost, layer -> why zeros stay in it)."""
    layers = [each for each in module.modules() if isinstance(each, LAYERS)]
    if not any(bool(_zero_outputs(each).any()) for each in layers):
        return {}, {}
    channels = _Channels(module, answer)
    return dict(channels.without()), channels.kept


class _Channels:
    """The graph of the copy, and what each of its layers gets to read."""

    def __init__(self, module: nn.Module, answer: Callable[[nn.Module], Tensor]) -> None:
        self.pruning = require("torch_pruning", "prune")
        self.types = self.pruning.ops.OPTYPE
        self.module = module
        self.names = {each: name for name, each in module.named_modules()}
        self.of_heads = set(_heads(module))
        self.read = _read(module, answer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it guesses how bare parameters go: such units are kept
            self.graph = self.pruning.DependencyGraph().build_dependency(
                module, example_inputs=(), forward_fn=lambda own, _: answer(own)
            )
        self.kept: dict[str, str] = {}

    def without(self) -> Iterator[tuple[str, int]]:
        """Layer -> how many output channels it lost."""
        done: set[nn.Module] = set()
        for layer, name in list(self.names.items()):
            if layer in done or not isinstance(layer, LAYERS) or layer not in self.graph.module2node:
                continue
            zero = _zero_outputs(layer).nonzero().flatten().tolist()
            if not zero:
                continue
            group = self._group(layer, zero)
            done |= {item.dep.target.module for item in group if self._writes(item)}
            if why := self._why_not(layer, group):
                self.kept[name] = why
                continue
            free = sorted(set(zero) - self._still_needed(group))
            free = free[: layer.weight.shape[0] - 1]
            if len(free) < len(zero):
                self.kept[name] = f"{len(zero) - len(free)} are no constant for the layers that read them"
            if free:
                group = self._group(layer, free)
                self._fold(group)
                group.prune()
                yield name, len(free)

    def _why_not(self, layer: nn.Module, group: Any) -> str:
        if f"{self.names[layer]}.weight" in self.of_heads:
            return "channels of attention go by whole heads only"
        if not any(self._reads(item) for item in group):
            return "no layer reads them: they are the model's output"
        fine = {
            getattr(self.types, name)
            for name in ("CONV", "LINEAR", "BN", "ELEMENTWISE", "RESHAPE", "PRELU", "CONCAT", "SPLIT")
        }
        for item in group:
            node = item.dep.target
            across = any(word in str(node.name).lower() for word in _ACROSS_CHANNELS)
            if node.type not in fine or across:
                return f"{node.name} mixes them with others"
        return ""

    def _still_needed(self, group: Any) -> set[int]:
        """Places of the root whose channel is more than a constant that can be folded."""
        needed: set[int] = set()
        for item in group:
            layer, places = item.dep.target.module, torch.tensor(item.idxs)
            if self._reads(item):
                low, high = (each[places] for each in self.read[layer])
                padded = isinstance(layer, LAYERS[1:]) and layer.padding != (0,) * len(layer.kernel_size)
                varies = high - low > 1e-6 * high.abs().clamp(min=1.0)
                needed |= _roots(item, varies | (padded & ((low != 0) | (high != 0))))
            elif self._writes(item):
                needed |= _roots(item, ~_zero_outputs(layer)[places])
        return needed

    def _fold(self, group: Any) -> None:
        """What the layers read of the channels becomes part of their own bias."""
        for item in group:
            layer, places = item.dep.target.module, torch.tensor(item.idxs)
            if not self._reads(item):
                continue
            constant = self.read[layer][0][places].double()
            weight = layer.weight.detach()[:, places].double().reshape(len(layer.weight), len(places), -1)
            added = (weight.sum(2) * constant).sum(1)
            if layer.bias is None and bool(added.any()):
                layer.bias = nn.Parameter(torch.zeros_like(added, dtype=layer.weight.dtype))
            if layer.bias is not None:
                layer.bias.data.copy_(layer.bias.data.double() + added)

    def _group(self, layer: nn.Module, places: list[int]) -> Any:
        kind = "linear" if isinstance(layer, nn.Linear) else "conv"
        how = getattr(self.pruning, f"prune_{kind}_out_channels")
        return self.graph.get_pruning_group(layer, how, idxs=places)

    def _reads(self, item: Any) -> bool:
        return isinstance(item.dep.target.module, LAYERS) and self.graph.is_in_channel_pruning_fn(
            item.dep.handler
        )

    def _writes(self, item: Any) -> bool:
        return isinstance(item.dep.target.module, LAYERS) and not self._reads(item)


def _roots(item: Any, chosen: Tensor) -> set[int]:
    return {root for root, is_chosen in zip(item.root_idxs, chosen.tolist(), strict=True) if is_chosen}


def _zero_outputs(layer: nn.Module) -> Tensor:
    return (layer.weight.detach().flatten(1) == 0).all(dim=1)  # type: ignore[operator]


def _zero_inputs(layer: nn.Module) -> Tensor:
    return (layer.weight.detach().transpose(0, 1).flatten(1) == 0).all(dim=1)  # type: ignore[operator]


def _read(module: nn.Module, answer: Callable[[nn.Module], Tensor]) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Layer -> the least and the largest value of each channel that it reads."""
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach()
        channels = x.flatten(0, -2) if isinstance(layer, nn.Linear) else x.transpose(0, 1).flatten(1).T
        low, high = channels.amin(dim=0), channels.amax(dim=0)
        if layer in found:
            low, high = torch.minimum(low, found[layer][0]), torch.maximum(high, found[layer][1])
        found[layer] = (low, high)

    hooks = [each.register_forward_pre_hook(look) for each in module.modules() if isinstance(each, LAYERS)]
    try:
        with torch.no_grad():
            answer(module)
    finally:
        for hook in hooks:
            hook.remove()
    return found
