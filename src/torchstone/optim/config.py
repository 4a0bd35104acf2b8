"""Knobs of the optimizer and its schedule."""

from __future__ import annotations

from torchstone.config.schema import Section, knob

OPTIMIZER_NAMES = (
    "adamw",
    "adam",
    "sgd",
    "adamwadv",
    "adamwspam",
    "spam",
    "sinkgd",
    "sinkgd_l1_2025",
    "muon",
    "adamwprune",
)
_ADAM = "optim.name!=sgd|sinkgd_l1_2025"
_SPAM = "optim.name=adamwspam|spam"
_SINKGD = "optim.name=sinkgd|sinkgd_l1_2025"


class OptimConfig(Section):
    """`optim.*`: optimizer and learning rate."""

    name: str = knob("adamw", help="Optimizer, by its name in the registry.", choices=OPTIMIZER_NAMES)
    learning_rate: float = knob(5e-5, help="Peak learning rate.", gt=0.0)
    weight_decay: float = knob(
        0.01,
        help="Weight decay on matrices; norms, biases and embeddings get none. An L2 term with adam and sgd.",
        ge=0.0,
    )
    beta1: float = knob(0.9, help="Decay of the first moment.", ge=0.0, lt=1.0, depends_on=_ADAM)
    beta2: float = knob(0.999, help="Decay of the second moment.", ge=0.0, lt=1.0, depends_on=_ADAM)
    eps: float = knob(
        1e-8, help="Added to the root of the second moment.", gt=0.0, depends_on="optim.name!=sgd"
    )
    amsgrad: bool = knob(
        False, help="Divide by the largest second moment so far.", depends_on="optim.name=adamwspam"
    )
    momentum: float = knob(
        0.9, help="Decay of the summed gradients.", ge=0.0, lt=1.0, depends_on="optim.name=sgd"
    )
    nesterov: bool = knob(False, help="Momentum that looks one step ahead.", depends_on="optim.name=sgd")
    muon_beta: float = knob(
        0.95, help="Decay of a matrix's mean gradient.", ge=0.0, lt=1.0, depends_on="optim.name=muon"
    )
    muon_steps: int = knob(
        5, help="Rounds of Newton-Schulz.", unit="iterations", ge=1, depends_on="optim.name=muon"
    )
    muon_adjust: str = knob(
        "match_rms_adamw",
        help="Size of a matrix's step: that of AdamW, or as in the first code of Muon.",
        choices=("match_rms_adamw", "original"),
        depends_on="optim.name=muon",
    )
    sinkgd_iterations: int = knob(
        5, help="Rounds of balancing rows and columns.", unit="iterations", ge=0, depends_on=_SINKGD
    )
    sinkgd_tau: float = knob(
        0.1, help="Gradients are squashed by tanh(x / tau).", gt=0.0, depends_on="optim.name=sinkgd_l1_2025"
    )
    spam_theta: float | None = knob(
        None,
        help="Gradients are clipped where their square exceeds this many times its running mean; "
        "0: not clipped; None: 50 with adamwspam, 5000 with spam.",
        ge=0.0,
        depends_on=_SPAM,
    )
    spam_interval: int | None = knob(
        None,
        help="Moments are cleared every so many steps; None: 1000 with adamwspam, 500 with spam.",
        unit="optimizer steps",
        ge=2,
        depends_on=_SPAM,
    )
    spam_warmup: int | None = knob(
        None,
        help="Warm-up after each clearing; None: 100 with adamwspam, 150 with spam.",
        unit="optimizer steps",
        ge=0,
        depends_on=_SPAM,
    )
    spam_spike: float = knob(
        5.0,
        help="A gradient norm so far over the mean of the last ones is a spike, and damps the moments.",
        unit="standard deviations",
        gt=0.0,
        depends_on="optim.name=adamwspam",
    )
    rate_attention: float = knob(
        1.0, help="Learning rate of attention, as a multiple of learning_rate.", unit="multiple", ge=0.0
    )
    rate_mlp: float = knob(
        1.0, help="Learning rate of MLPs, as a multiple of learning_rate.", unit="multiple", ge=0.0
    )
    rate_coupling: float = knob(
        1.0,
        help="Learning rate of terms that couple attention and MLP, as a multiple of learning_rate.",
        unit="multiple",
        ge=0.0,
    )
    decay_coupling: float | None = knob(
        None, help="Weight decay of coupling matrices; None: weight_decay.", ge=0.0
    )
    schedule: str = knob(
        "cosine",
        help="Learning rate over optimizer steps, after the warm-up.",
        choices=("cosine", "linear", "constant", "wsd", "inverse-sqrt"),
        source="cosine: arXiv:1608.03983; wsd: arXiv:2404.06395; inverse-sqrt: arXiv:1706.03762",
    )
    warmup_ratio: float = knob(
        0.1, help="Share of all optimizer steps spent warming up.", unit="fraction", ge=0.0, le=1.0
    )
    final_learning_rate_ratio: float = knob(
        0.1,
        help="Learning rate at the end, as a share of the peak.",
        unit="fraction",
        ge=0.0,
        le=1.0,
        depends_on="optim.schedule=cosine|linear|wsd",
    )
    decay_ratio: float = knob(
        0.2,
        help="Share of all optimizer steps spent decaying at the end, as far as the warm-up leaves room.",
        unit="fraction",
        ge=0.0,
        le=1.0,
        depends_on="optim.schedule=wsd",
    )
    decay_form: str = knob(
        "linear",
        help="How the rate falls over the decay.",
        choices=("linear", "cosine", "1-sqrt"),
        depends_on="optim.schedule=wsd",
    )
    max_grad_norm: float | None = knob(
        1.0, help="Clip the global gradient norm to this; None does not clip.", unit="L2 norm", gt=0.0
    )


PRUNING_METHODS = (
    "magnitude",
    "movement",
    "movement_displacement",
    "state",
    *(f"bitter{number}" for number in range(6)),
    "bitter5_inverted_2025",
    "bitter6",
    "bitter7_to_20251105",
    "bitter7_from_20251106",
    "bitter8_to_20251114",
    "bitter8_from_20251115",
    "bitter9_to_20251114",
    "bitter9_from_20251115",
    "bitter10z",
    "bitter10s",
    "bitter10c",
)
_PRUNED = "prune.method!=none"


class PruneConfig(Section):
    """`prune.*`: which weights are made zero while the model trains, and when."""

    method: str = knob(
        "none",
        help="What a weight is worth, by its name in the registry.",
        choices=("none", *PRUNING_METHODS),
    )
    sparsity: float = knob(
        0.5,
        help="Share of the prunable weights that is zero at the end.",
        unit="fraction",
        gt=0.0,
        lt=1.0,
        depends_on=f"{_PRUNED} && prune.pattern=weights|channels|heads",
    )
    pattern: str = knob(
        "weights",
        help="What goes at a time: single weights, channels, heads, or all but N of M neighbours.",
        choices=("weights", "channels", "heads", "2:4", "4:8", "1:4"),
        depends_on=_PRUNED,
    )
    scope: str = knob(
        "global",
        help="How sparsity is shared out: one ranking, each tensor alike, deeper ones more, so that a ratio "
        "of MLP to attention is met, or one ranking weighted by part.",
        choices=("global", "layer", "depth", "ratio", "structure"),
        depends_on=f"{_PRUNED} && prune.pattern=weights|channels|heads",
    )
    ratio: float | None = knob(
        None,
        help="MLP weights per attention weight that stay; None: as many as the model has.",
        gt=0.0,
        depends_on="prune.scope=ratio",
    )
    importance_attention: float = knob(
        2.5, help="Scores of attention are multiplied by this.", gt=0.0, depends_on="prune.scope=structure"
    )
    importance_mlp: float = knob(
        1.0, help="Scores of MLPs are multiplied by this.", gt=0.0, depends_on="prune.scope=structure"
    )
    importance_coupling: float = knob(
        3.0,
        help="Scores of coupling terms are multiplied by this.",
        gt=0.0,
        depends_on="prune.scope=structure",
    )
    schedule: str = knob(
        "cubic",
        help="How sparsity grows from start to end.",
        choices=("cubic", "linear", "cube_2025"),
        depends_on=_PRUNED,
    )
    start: float = knob(
        0.1,
        help="Share of all optimizer steps before pruning begins.",
        unit="fraction",
        ge=0.0,
        lt=1.0,
        depends_on=_PRUNED,
    )
    end: float = knob(
        0.75,
        help="Share of all optimizer steps after which masks stay as they are.",
        unit="fraction",
        gt=0.0,
        le=1.0,
        depends_on=_PRUNED,
    )
    every: int = knob(
        50, help="Steps between two masks on the way.", unit="optimizer steps", ge=1, depends_on=_PRUNED
    )
    threshold: str = knob(
        "exact",
        help="Exactly as many weights as promised, or by a sample of the scores, which is quicker.",
        choices=("exact", "sampled"),
        depends_on=f"{_PRUNED} && prune.pattern=weights",
    )
    sample: float = knob(
        0.02,
        help="Share of the scores that is sampled, at least 4096 of them.",
        unit="fraction",
        gt=0.0,
        le=1.0,
        depends_on="prune.threshold=sampled",
    )
    epsilon: float = knob(
        1e-3,
        help="Added to the second moment, as a share of the tensor's mean.",
        unit="multiple of the mean",
        gt=0.0,
        depends_on="prune.method=state",
    )
    head: bool = knob(
        False,
        help="Prune the output layer too, and the embedding with it where they are tied.",
        depends_on=_PRUNED,
    )
