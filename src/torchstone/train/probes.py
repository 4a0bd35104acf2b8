"""What is measured of the model itself at each validation, outside the training step.

Gates cost nothing and are always told. Attention is looked at where `tracking.attention_samples` asks: the
first so many validation examples pass through the model once more, each time the same ones, without gradient
and with generators and modes put back. Only rank 0 measures, for only it keeps rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone._seeds import preserved_rng
from torchstone.config.resolve import Resolved
from torchstone.nn.attention.look import HeadLook
from torchstone.nn.gates import gate_metrics
from torchstone.nn.gpt import GPT
from torchstone.train.loop_parts import Probe
from torchstone.train.objective import ModelObjective, validation_batches
from torchstone.train.precision import autocast_of
from torchstone.train.ranks import Spread
from torchstone.train.subject import Subject

GPT_INPUTS = ("input_ids", "attention_mask", "position_ids")


def probes_of(subject: Subject, config: Resolved, objective: ModelObjective, spread: Spread) -> list[Probe]:
    """None where a model is split over ranks: one of them cannot look at it."""
    if subject.validation is None or not subject.ranks.main or not spread.can_be_alone:
        return []
    found: list[Probe] = [lambda: gate_metrics(subject.module)]
    if config.tracking.attention_samples:
        found.append(AttentionProbe(subject, config, objective))
    return found


def require_attention(subject: Subject, config: Resolved) -> None:
    """Refuse the wish to look at attention that nobody can look at."""
    why = None
    if subject.validation is None:
        why = "it is looked at when validating, and there is no validation data"
    elif _gpt(subject.module) is None:
        why = "the model's blocks are not ours, and what its attention does inside is not told"
    elif config.train.strategy == "fsdp":
        why = "the model is split over ranks, and one of them cannot look at it"
    if why is not None:
        raise ConfigError(
            f"tracking.attention_samples = {config.tracking.attention_samples} has no effect here",
            why=why,
            next="take the key out",
        )


class AttentionProbe:
    """`attention/BLOCK/entropy/HEAD` in nats and `attention/BLOCK/reciprocity/HEAD`, over fixed examples."""

    def __init__(self, subject: Subject, config: Resolved, objective: ModelObjective) -> None:
        model = _gpt(subject.module)
        assert model is not None
        self.model = model
        self.names = [name for name, each in subject.module.named_modules() if each in set(model.blocks)]
        self.num_samples = config.tracking.attention_samples
        self.subject, self.objective = subject, objective
        self.autocast = autocast_of(config.train.precision, subject.device)

    def __call__(self) -> dict[str, float]:
        modes = [(each, each.training) for each in self.model.modules()]
        self.model.eval()
        try:
            with preserved_rng(), torch.no_grad():
                return self._row()
        finally:
            for each, mode in modes:
                each.training = mode

    def _row(self) -> dict[str, float]:
        seen = {block: HeadLook() for block in self.names}
        for inputs in self._examples():
            mask = inputs.get("attention_mask")
            real = mask.bool() if mask is not None and mask.dim() == 2 else None
            with self.autocast():
                for block, attended in zip(self.names, self.model.attended(**inputs), strict=True):
                    assert attended.looked is not None, f"{block} does not tell how it looks"
                    seen[block].add(attended.looked, real)
        return {
            f"attention/{block}/{name}/{head}": value
            for block, each in seen.items()
            for name in ("entropy", "reciprocity")
            for head, value in enumerate(getattr(each, name).tolist())
            if not math.isnan(value)
        }

    def _examples(self) -> Iterator[dict[str, Tensor]]:
        """What the model is given of the first examples, in the batches in which validation has them."""
        assert self.subject.validation is not None
        left = self.num_samples
        for batch in validation_batches(self.subject.validation(), self.objective):
            known = [name for name in GPT_INPUTS if name in batch.inputs]
            yield {name: batch.inputs[name][:left] for name in known}
            left -= len(batch.inputs["input_ids"])
            if left <= 0:
                return


def _gpt(module: nn.Module) -> GPT | None:
    return next((each for each in module.modules() if isinstance(each, GPT)), None)
