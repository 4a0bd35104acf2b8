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
