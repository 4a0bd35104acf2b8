"""The optimizers one can name, and how one is built for a module.

A new optimizer is one file with a factory and one record here; `tests/laws/test_optimizers.py` then
holds it to the laws (it equals its reference, descends, resumes bit for bit, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchstone._registry import Registry
from torchstone.optim.adamw import adam, adamw, adamwadv
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import parameter_groups, rate_of
from torchstone.optim.muon import muon
from torchstone.optim.sgd import sgd
from torchstone.optim.sinkgd import sinkgd, sinkgd_l1_2025
from torchstone.optim.spam import adamwspam, spam
from torchstone.optim.structure import Part

Groups = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class OptimizerRecord:
    """One optimizer: its factory takes parameter groups and the `optim.*` section."""

    name: str
    factory: Callable[[Groups, OptimConfig], torch.optim.Optimizer]
    summary: str
    """One line."""
    source: str
    """Paper or code it comes from."""
    state_bytes: int
    """Of state per parameter in fp32; of a hidden matrix's, where these are treated apart."""
    rest_bytes: int | None = None
    """Of state per parameter that is not in a hidden matrix. None: all are treated alike."""
    moments: bool = False
    """Whether each parameter has both of Adam's moments, `exp_avg` and `exp_avg_sq`."""
    keeps_zeros: bool = True
    """Whether an element whose weight, gradient and state are zero stays zero in a step."""
    no_fsdp: str | None = None
    """Why the state cannot be split over devices (FSDP). None: it can."""
    needs_pruner: bool = False
    """Whether the name stands for an optimizer and pruning by its state together."""

    @property
    def splits_matrices(self) -> bool:
        return self.rest_bytes is not None


OPTIMIZERS: Registry[OptimizerRecord] = Registry("optimizer")
_ADAM = "Kingma & Ba, Adam, arXiv:1412.6980"
_ADAMW = "Loshchilov & Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101"
_WHOLE_MATRICES = "its steps need whole matrices, and FSDP gives each device rows"

for _record in (
    OptimizerRecord(
        name="adamw",
        factory=adamw,
        summary="Adam with decoupled weight decay; torch's own kernels, fused where they exist",
        source=_ADAMW,
        state_bytes=8,
        moments=True,
    ),
    OptimizerRecord(
        name="adam",
        factory=adam,
        summary="Adam; weight decay is an L2 term of the gradient",
        source=_ADAM,
        state_bytes=8,
        moments=True,
    ),
    OptimizerRecord(
        name="sgd",
        factory=sgd,
        summary="gradient descent with momentum; weight decay is an L2 term of the gradient",
        source="Polyak 1964; Sutskever et al. 2013, ICML, for the form of its momentum",
        state_bytes=4,
    ),
    OptimizerRecord(
        name="adamwadv",
        factory=adamwadv,
        summary="AdamW with AMSGrad; meant for a cosine schedule and max_grad_norm 1, as is the default",
        source="Reddi, Kale & Kumar, On the Convergence of Adam and Beyond, arXiv:1904.09237",
        state_bytes=12,
        moments=True,
    ),
    OptimizerRecord(
        name="adamwspam",
        factory=adamwspam,
        summary="AdamW; clips by element, damps moments at spikes of the norm, resets them now and then",
        source="github.com/mcgrof/AdamWPrune (2025), its intent; clipping and reset: arXiv:2501.06842",
        state_bytes=8,
        moments=True,
        no_fsdp="it judges spikes by the norm of whole gradients",
    ),
    OptimizerRecord(
        name="spam",
        factory=spam,
        summary="AdamW; clips by element, resets moments now and then; without the paper's sparse momentum",
        source="Huang et al. 2025, SPAM: Spike-Aware Adam with Momentum Reset, arXiv:2501.06842",
        state_bytes=8,
        moments=True,
        no_fsdp="its clipping was not tried on split gradients",
    ),
    OptimizerRecord(
        name="sinkgd",
        factory=sinkgd,
        summary="stateless, gradients with balanced rows and columns; AdamW for all but hidden matrices",
        source="Scetbon, Ma, Gong & Meeds 2025, Gradient Multi-Normalization, arXiv:2502.06742",
        state_bytes=0,
        rest_bytes=8,
        no_fsdp=_WHOLE_MATRICES,
    ),
    OptimizerRecord(
        name="sinkgd_l1_2025",
        factory=sinkgd_l1_2025,
        summary="historical: L1 norms and tanh, on all parameters; another optimizer than the published one",
        source="github.com/mcgrof/AdamWPrune (November 2025)",
        state_bytes=0,
        no_fsdp=_WHOLE_MATRICES,
    ),
    OptimizerRecord(
        name="muon",
        factory=muon,
        summary="orthogonal steps for hidden matrices; AdamW for the rest",
        source="Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982",
        state_bytes=4,
        rest_bytes=8,
        keeps_zeros=False,
        no_fsdp=_WHOLE_MATRICES,
    ),
    OptimizerRecord(
        name="adamwprune",
        factory=adamw,
        summary="AdamW, unchanged, with pruning by its own state; needs a prune.method that reads the state",
        source="github.com/mcgrof/AdamWPrune (2025), its intent",
        state_bytes=8,
        moments=True,
        needs_pruner=True,
    ),
):
    OPTIMIZERS.add(_record)


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names, over the trainable parameters of `module`, grouped by role."""
    record = OPTIMIZERS.get(config.name)
    rates: dict[Part, float] = {
        "attention": config.rate_attention,
        "mlp": config.rate_mlp,
        "coupling": config.rate_coupling,
    }
    groups = parameter_groups(
        module,
        config.weight_decay,
        rates={part: rate for part, rate in rates.items() if rate != 1.0},
        decays={} if config.decay_coupling is None else {"coupling": config.decay_coupling},
        split_matrices=record.splits_matrices,
    )
    optimizer = record.factory(groups, config)
    for group in optimizer.param_groups:
        group["lr"] = rate_of(group, config.learning_rate)
    return optimizer
