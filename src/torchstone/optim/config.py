"""Knobs of the optimizer and its schedule."""

from __future__ import annotations

from torchstone.config.schema import Section, knob


class OptimConfig(Section):
    """`optim.*`: optimizer and learning rate."""

    name: str = knob("adamw", help="Optimizer, by its name in the registry.", choices=("adamw",))
    learning_rate: float = knob(5e-5, help="Peak learning rate.", gt=0.0)
    weight_decay: float = knob(
        0.01, help="Decoupled weight decay on matrices; norms, biases and embeddings get none.", ge=0.0
    )
    beta1: float = knob(0.9, help="Decay of the first moment.", ge=0.0, lt=1.0)
    beta2: float = knob(0.999, help="Decay of the second moment.", ge=0.0, lt=1.0)
    eps: float = knob(1e-8, help="Added to the root of the second moment.", gt=0.0)
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
