"""Pruning as a training loop sees it: masks on gradients before an update, new masks after some updates.

    pruner = build_pruner(module, optimizer, config, total_steps=1000, ...)
    pruner.mask_gradients()          # gradients are complete
    pruner.after_step(step, made)    # after each update; steps count from 1
    pruner.require()                 # before weights are measured: they are as sparse as was promised

An element whose weight, gradient and state are zero stays zero with most optimizers, so between two masks the
gradients are all that is masked; with the others (`keeps_zeros` False) weights are too, after each step. The
base optimizer and its hyper-parameters are what they are without pruning, and so is the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError, ModelError
from torchstone.optim.config import PruneConfig
from torchstone.optim.pruning import selection
from torchstone.optim.pruning.allocation import allot, importance
from torchstone.optim.pruning.bits import pack_bits, unpack_bits
from torchstone.optim.pruning.methods import METHODS, Evidence, Method
from torchstone.optim.pruning.ramp import Plan
from torchstone.optim.pruning.targets import channel_units, head_units, n_of_m, prunable
from torchstone.optim.registry import OPTIMIZERS


class Pruner:
    """Masks over some weights of a module, one byte per weight, and what its method remembers."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PruneConfig,
        plan: Plan,
        *,
        keeps_zeros: bool,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.config = config
        self.plan = plan
        self.keeps_zeros = keeps_zeros
        self.method: Method = METHODS.get(config.method)
        self.scope = self.method.scope or config.scope
        self.weights = prunable(module, config)
        self.total = sum(each.numel() for each in self.weights.values())
        self.masks = {name: torch.ones_like(each, dtype=torch.uint8) for name, each in self.weights.items()}
        self.memory: dict[str, dict[str, Tensor]] = {name: {} for name in self.weights}
        self.promised = 0
        """Weights that the masks in force were to drop."""
        self.progress = 0.0
        """Of the final sparsity, when they were made."""
        self.pending = False
        """Whether masks were due at a step that was not made."""
        self.followers: list[Mapping[str, Tensor]] = []
        """Other tensors by the names of the weights that have to be as sparse, such as an average."""
        self._begin_memory()
        self._require_reachable()

    @property
    def words(self) -> str:
        """What will be done, for a person."""
        config, how = self.config, f"{self.config.pattern}, {self.scope}, {self.config.schedule}"
        if ":" in config.pattern:
            keep, group = n_of_m(config.pattern)
            share, how = 1.0 - keep / group, f"{config.pattern}, {config.schedule}"
        else:
            share = config.sparsity
        return f"{config.method}: {share:.0%} of {self.total:,} weights by step {self.plan.last:,} ({how})"

    # --- what a loop calls ----------------------------------------------------------------------

    @torch.no_grad()
    def mask_gradients(self) -> None:
        if not self.promised:
            return
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.masks[name])

    @torch.no_grad()
    def after_step(self, step: int, was_made: Callable[[], bool]) -> None:
        """`was_made` may wait for the device, and is asked only where masks are due."""
        late = step > self.plan.last and self.progress < 1.0  # weights and masks were rolled back
        if self.plan.is_due(step) or self.pending or late:
            self.pending = not was_made()
            if not self.pending:
                self.prune(self.plan.share(step), step)
        elif self.promised and not self.keeps_zeros:
            for name, weight in self.weights.items():
                weight.mul_(self.masks[name])

    @torch.no_grad()
    def require(self) -> dict[str, float]:
        """The achieved sparsity; a ModelError where it is not what was promised."""
        dropped = 0
        for name, weight in self.weights.items():
            mask = self.masks[name]
            dropped += mask.numel() - int(mask.sum())
            if bool((weight.detach() * (1 - mask)).count_nonzero()):
                raise ModelError(
                    f"pruned weights of {name} are not zero",
                    why="something beside the optimizer changed them",
                )
        if abs(dropped - self.promised) > self.tolerance:
            raise ModelError(
                f"{dropped:,} of {self.total:,} weights are pruned, and it was to be {self.promised:,}",
                why=f"prune.threshold = {self.config.threshold} keeps to within {self.tolerance:,} weights",
            )
        return {"prune/sparsity": dropped / self.total}

    # --- masks ----------------------------------------------------------------------------------

    @torch.no_grad()
    def prune(self, progress: float, seed: int = 0) -> None:
        """New masks at `progress` (0 to 1) of the final sparsity, applied to weights, state and followers.

        They are never less sparse than the last ones, even where a run was made longer meanwhile.
        """
        progress = self.progress = max(progress, self.progress)
        scores = {name: self._score(name) for name in self.weights}
        masks = self._select(scores, progress, seed)
        for name, mask in masks.items():
            self.masks[name] = mask.to(torch.uint8)
            if self.method.keeps == "snapshot":
                self.memory[name]["snapshot"].copy_(self.weights[name])
        self._apply()

    def _score(self, name: str) -> Tensor:
        evidence = self._evidence(name)
        if self.method.observe is not None:
            self.method.observe(evidence)
        score = self.method.score(evidence).nan_to_num(nan=-math.inf, neginf=-math.inf)
        if self.scope == "structure":
            # Of a score below zero a part of it is more.
            factor = importance(name, self.config)
            score = torch.where(score > 0.0, score * factor, score / factor)
        if self.method.regrows:
            return score
        # What is pruned is worth -inf. Arithmetic is quicker here than a masked fill: 1 / mask is 1 or inf.
        return score - (self.masks[name].float().reciprocal_() - 1.0)

    def _evidence(self, name: str) -> Evidence:
        weight = self.weights[name].detach()
        state = self.optimizer.state.get(self.weights[name], {})
        nothing = torch.zeros((), device=weight.device)
        m, v = (state[key].float() if key in state else nothing.expand(weight.shape) for key in _MOMENTS)
        steps = state.get("step", nothing)
        beta1 = self._beta1(name)
        unbiased = -torch.expm1(steps * math.log(beta1)) if beta1 > 0.0 else torch.ones(())
        unbiased = torch.where(unbiased > 0.0, unbiased, torch.ones_like(unbiased))
        return Evidence(weight.float(), m, v, unbiased, self.config.epsilon, self.memory[name])

    def _beta1(self, name: str) -> float:
        for group in self.optimizer.param_groups:
            if any(each is self.weights[name] for each in group["params"]):
                return float(group.get("betas", (0.0,))[0])
        return 0.0

    def _select(self, scores: dict[str, Tensor], progress: float, seed: int) -> selection.Masks:
        config = self.config
        if ":" in config.pattern:
            keep, group = n_of_m(config.pattern)
            keep = group - round((group - keep) * progress)
            self.promised = sum(each.numel() // group * (group - keep) for each in scores.values())
            return {name: selection.keep_n_of_m(each, keep, group) for name, each in scores.items()}
        sizes = {name: each.numel() for name, each in scores.items()}
        rankings = allot(sizes, config, self.scope, progress)
        self.promised = sum(number for _, number in rankings)
        masks: selection.Masks = {}
        for names, number in rankings:
            some = {name: scores[name] for name in names}
            masks |= self._rank(some, number, seed)
        return masks

    def _rank(self, scores: dict[str, Tensor], number: int, seed: int) -> selection.Masks:
        if self.config.pattern == "weights" and self.config.threshold == "exact":
            return selection.keep_best(scores, number)
        if self.config.pattern == "weights":
            share = number / sum(each.numel() for each in scores.values())
            return selection.keep_above_sample(scores, share, self.config.sample, seed)
        return selection.keep_best_units(scores, self._units(scores), number)

    def _units(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        some = {name: self.weights[name] for name in scores}
        return channel_units(some) if self.config.pattern == "channels" else head_units(self.module, some)

    def _apply(self) -> None:
        for name, weight in self.weights.items():
            mask = self.masks[name]
            weight.mul_(mask)
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value.mul_(mask)
            for tensors in self.followers:
                if name in tensors:
                    tensors[name].mul_(mask)

    @property
    def tolerance(self) -> int:
        """Weights by which the masks may miss what was promised."""
        if ":" in self.config.pattern:
            return 0
        if self.config.pattern != "weights":
            # Of each ranking the last unit may go or stay.
            sizes: dict[int, int] = {}
            for name, unit in self._units(
                {name: each.detach() for name, each in self.weights.items()}
            ).items():
                per_unit = self.weights[name].numel() // unit.numel()
                for each in unit.flatten().tolist():
                    sizes[each] = sizes.get(each, 0) + per_unit
            return max(sizes.values()) * (len(self.weights) if self.scope == "layer" else 1)
        if self.config.threshold == "exact":
            return 0
        return selection.most_missed(self.promised / self.total, self.total, self.config.sample)

    @property
    def num_bytes(self) -> int:
        """Of masks and memory."""
        tensors = [*self.masks.values(), *(each for kept in self.memory.values() for each in kept.values())]
        return sum(each.numel() * each.element_size() for each in tensors)

    # --- memory ---------------------------------------------------------------------------------

    def _begin_memory(self) -> None:
        kept = self.method.keeps
        for name, weight in self.weights.items():
            if kept == "summed":
                self.memory[name][kept] = torch.zeros_like(weight, dtype=torch.float32)
            elif kept is not None:
                self.memory[name][kept] = weight.detach().float().clone()
        if kept == "summed":
            self.optimizer.register_step_pre_hook(self._sum_gradients)

    @torch.no_grad()
    def _sum_gradients(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """- w dL/dw of the updates that are made; a device may refuse one by itself."""
        refused = getattr(optimizer, "found_inf", None)
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            toward = weight * weight.grad
            if refused is not None:
                toward = torch.where(refused > 0.0, torch.zeros_like(toward), toward)
            self.memory[name]["summed"].sub_(toward)

    def _require_reachable(self) -> None:
        """Refuse now what would fail at the first mask."""
        if ":" not in self.config.pattern:
            allot({name: each.numel() for name, each in self.weights.items()}, self.config, self.scope, 1.0)

    # --- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "masks": {name: pack_bits(mask) for name, mask in self.masks.items()},
            "memory": {name: dict(each) for name, each in self.memory.items() if each},
            "promised": self.promised,
            "progress": self.progress,
            "pending": self.pending,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, weight in self.weights.items():
            self.masks[name] = unpack_bits(state["masks"][name].to(weight.device), weight.shape)
            kept = state["memory"].get(name, {})
            self.memory[name] = {key: each.to(weight.device).clone() for key, each in kept.items()}
        self.promised, self.progress = state["promised"], state["progress"]
        self.pending = state["pending"]


_MOMENTS = ("exp_avg", "exp_avg_sq")


def build_pruner(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: PruneConfig,
    *,
    total_steps: int,
    optimizer_name: str,
) -> Pruner | None:
    """The pruner that `config` describes, or None; what does not go with the optimizer is a ConfigError."""
    record = OPTIMIZERS.get(optimizer_name)
    method = None if config.method == "none" else METHODS.get(config.method)
    if record.needs_pruner and (method is None or not method.by_state):
        raise ConfigError(
            f"optim.name = {optimizer_name} means pruning by the optimizer's state, and prune.method is "
            f"{config.method}",
            next="--set prune.method=state, or --set optim.name=adamw for the same optimizer without pruning",
        )
    if method is None:
        return None
    if method.by_state and not record.moments:
        raise ConfigError(
            f"prune.method = {config.method} reads Adam's moments, which {optimizer_name} has not",
            next="choose an optimizer of the Adam family, or prune.method=magnitude",
        )
    if method.scope is not None and config.scope not in (method.scope, "global"):
        raise ConfigError(
            f"prune.method = {config.method} is defined by its scope, {method.scope}, not {config.scope}",
            next=f"take prune.scope out, or set it to {method.scope}",
        )
    return Pruner(module, optimizer, config, Plan(config, total_steps), keeps_zeros=record.keeps_zeros)
