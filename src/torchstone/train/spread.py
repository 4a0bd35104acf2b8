"""A model spread over the ranks: copied to each (DDP), or split among them (FSDP2).

    spread = spread_over(module, "fsdp", ranks, device, precision)   # before the optimizer is built
    objective = spread.objective(objective)                          # what a step minimises, on all ranks

Gradients are summed over the ranks, not averaged: a step divides by the targets of all of them, so the sum
is the gradient of the whole batch, however it was cut.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from torchstone._errors import ConfigError
from torchstone.tracking.checkpoint import Checkpoint
from torchstone.train.rank_group import Group
from torchstone.train.rank_saving import Giver, SplitCheckpoint, Writer
from torchstone.train.ranks import Spread
from torchstone.train.saving import Keeping, Saver
from torchstone.train.update import Gradients

_PARAM_DTYPES = {"bf16": torch.bfloat16}


@dataclass(frozen=True)
class Copied(Spread):
    """The same weights on every rank."""

    module: nn.Module
    ranks: Group

    def objective(self, objective: Any) -> Any:
        return _ThroughDDP(objective, self.module, self.ranks)

    def alone(self, objective: Any) -> Any:
        return objective.plain

    def saver(
        self,
        keeping: Keeping | None,
        flush_rows: Callable[[], object],
        stop_asked: Callable[[], str | None],
    ) -> Saver | None:
        if keeping is None:
            return None
        if self.ranks.main:
            return Writer(keeping, flush_rows, stop_asked, self.ranks)
        return Giver(keeping, self.ranks)


@dataclass(frozen=True)
class Split(Copied):
    """Each rank holds a slice of every weight and of the optimizer's state."""

    can_be_alone = False

    def objective(self, objective: Any) -> Any:
        return objective

    def alone(self, objective: Any) -> Any:
        return objective

    def gradients(self, parameters: Sequence[Tensor], max_norm: float | None) -> Gradients:
        return _SplitGradients(parameters, max_norm)

    def opened(self, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> Checkpoint:
        found = checkpoint
        return SplitCheckpoint(found.path, found.step, found.manifest, self.module, optimizer)


def spread_over(
    module: nn.Module, strategy: str, ranks: Group, device: torch.device, precision: str
) -> Copied:
    """Spread `module`, which is already on `device`, in place. `auto` copies."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError("no parameter learns, so there is nothing to spread over devices")
    if strategy != "fsdp":
        return Copied(module, ranks)
    _split(module, ranks.world, device, precision)
    return Split(module, ranks)


# --- DDP ----------------------------------------------------------------------------------------


class _Call(nn.Module):
    """A method of an objective as a module's forward pass, which is what DDP watches."""

    def __init__(self, objective: Any, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._objective = (objective,)  # not a child: its module is one already

    def forward(self, method: str, batch: Any) -> Any:
        return getattr(self._objective[0], method)(batch)


class _ThroughDDP:
    """An objective whose gradients are summed over the ranks as they become known."""

    def __init__(self, objective: Any, module: nn.Module, ranks: Group) -> None:
        self.plain = objective
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on buffers that share memory
            self._ddp = DistributedDataParallel(
                _Call(objective, module),
                # A model may leave parameters out of a pass: experts, heads of another task.
                find_unused_parameters=True,
                broadcast_buffers=_has_statistics(module),
                gradient_as_bucket_view=True,
            )
        self._ddp.register_comm_hook(None, lambda _, bucket: _sum(bucket))  # its types are looked at
        ranks.reduce_gradients_with(self._ddp.no_sync)
        # A model that uses all of its parameters is no mistake.
        warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def loss_sum(self, batch: Any) -> Tensor:
        return self._call("loss_sum", batch)

    def measure(self, batch: Any, *observers: Any) -> dict[str, Tensor]:
        if observers:
            return self.plain.measure(batch, *observers)
        return self._call("measure", batch)

    def _call(self, method: str, batch: Any) -> Any:
        if not torch.is_grad_enabled():
            return getattr(self.plain, method)(batch)
        return self._ddp(method, batch)


def _sum(bucket: Any) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _has_statistics(module: nn.Module) -> bool:
    """Numbers that training changes without a gradient; rank 0's are then everybody's."""
    return any(
        buffer.is_floating_point() for name, buffer in module.named_buffers() if name in module.state_dict()
    )


# --- FSDP2 --------------------------------------------------------------------------------------


def _split(module: nn.Module, world: int, device: torch.device, precision: str) -> None:
    mesh = dist.device_mesh.init_device_mesh(device.type, (world,))
    policy = MixedPrecisionPolicy(
        param_dtype=_PARAM_DTYPES.get(precision),
        reduce_dtype=torch.float32,
    )
    for block in blocks_of(module):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.set_gradient_divide_factor(1.0)
            each.set_force_sum_reduction_for_comms(True)  # gloo knows no other


class _SplitGradients(Gradients):
    """Gradients of which each rank holds slices; their norms are those of the whole."""

    def measure(self) -> tuple[list[Tensor], dict[int, Tensor], Tensor]:
        held = [
            (place, _local(each.grad)) for place, each in enumerate(self.parameters) if each.grad is not None
        ]
        slices = [gradient for _, gradient in held]
        if not slices:
            return super().measure()
        squares = torch.stack([slice_.float().square().sum() for slice_ in slices])
        dist.all_reduce(squares)
        norms = squares.sqrt().unbind()
        return (
            slices,
            {place: norm for (place, _), norm in zip(held, norms, strict=True)},
            squares.sum().sqrt(),
        )


def _local(gradient: Any) -> Tensor:
    """The memory of this rank's slice."""
    local: Tensor = gradient.to_local()
    return local


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks, each gathered and let go on its own; none: the model is one block.

    The children of equal class of the ModuleList that holds the most parameters; lists inside blocks and
    lists of unlike children are not taken apart.
    """
    lists = [each for each in module.modules() if isinstance(each, nn.ModuleList) and _is_repeated(each)]
    if not lists:
        return []
    inner = {id(part) for each in lists for child in each for part in child.modules()}
    return [child for each in lists if id(each) not in inner for child in each]


def _is_repeated(children: nn.ModuleList) -> bool:
    kinds = {type(child) for child in children}
    has_weights = all(next(child.parameters(), None) is not None for child in children)
    return len(children) > 1 and len(kinds) == 1 and has_weights
