"""Knobs of the MLP of the blocks."""

from __future__ import annotations

from torchstone.config.schema import Section, knob
from torchstone.nn.calm_knobs import calm_knobs

_RECIPROCAL_MLP = "model.mlp.name=reciprocal"
_RMLP = "model.mlp.name=r-mlp"
_GUIDED = _RMLP + " && model.mlp.activation=variance-guided"
_GATE = _RECIPROCAL_MLP + " && model.mlp.attention_gate!=off"
_CROSS_TOKEN_MLP = _RECIPROCAL_MLP + " && model.mlp.cross_token=y"
_LATENT_MLP = _RECIPROCAL_MLP + " && model.mlp.latent_context=y"
_WINDOW, _VARIATION, _SLOPE, _RAMP = calm_knobs(_GUIDED)


class MLPConfig(Section):
    """`model.mlp.*`: the MLP of the blocks."""

    name: str | None = knob(
        None,
        help="MLP of the blocks; None: as the model has it.",
        choices=("dense", "reciprocal", "r-mlp", "lens-context", "absent"),
    )
    ratio: float | None = knob(
        None,
        help="Parameters of the MLPs in those of the attention: the hidden width follows; None: from d_ff.",
        gt=0.0,
    )
    multiple_of: int = knob(
        1,
        help="What the width that follows from the ratio is a multiple of.",
        unit="channels",
        ge=1,
        depends_on="model.mlp.ratio!=none",
    )
    attention_gate: str = knob(
        "token",
        help="Whether a factor on each head of the next block comes from the token, from the mean over the "
        "tokens so far, or not at all.",
        choices=("token", "running-mean", "off"),
        depends_on=_RECIPROCAL_MLP,
    )
    gate_width: int = knob(
        64, help="Channels that the gate sees of the MLP.", unit="channels", ge=1, depends_on=_GATE
    )
    gate_strength: float = knob(
        0.1,
        help="Share of the gate in its factor.",
        unit="fraction",
        ge=0.0,
        le=1.0,
        depends_on=_GATE,
    )
    cross_token: bool = knob(
        True, help="The MLP mixes in the tokens that its attention looked at.", depends_on=_RECIPROCAL_MLP
    )
    sparsify: str = knob(
        "topk",
        help="Which weights of each row stay: the largest, those not far below the root mean square, or all.",
        choices=("topk", "rms", "none"),
        depends_on=_CROSS_TOKEN_MLP,
    )
    topk: int = knob(
        8,
        help="How many of the largest weights stay.",
        unit="tokens",
        ge=1,
        depends_on=_CROSS_TOKEN_MLP + " && model.mlp.sparsify=topk",
    )
    rms_threshold: float = knob(
        0.5,
        help="The least weight that stays, in root mean squares of its row.",
        ge=0.0,
        le=1.0,
        depends_on=_CROSS_TOKEN_MLP + " && model.mlp.sparsify=rms",
    )
    bottleneck: int = knob(
        110,
        help="Channels through which tokens are mixed.",
        unit="channels",
        ge=1,
        depends_on=_CROSS_TOKEN_MLP,
    )
    cross_strength: float = knob(0.3, help="Weight of what is mixed in.", depends_on=_CROSS_TOKEN_MLP)
    latent_context: bool = knob(
        False,
        help="The MLP hears the latent of its attention's keys and adds to that of the next block.",
        depends_on=_RECIPROCAL_MLP,
    )
    tying: str = knob(
        "tied_transpose",
        help="Whether the way back from MLP to latent is the transpose of the way there, a map of its own, "
        "or that with a learned number per head each way.",
        choices=("tied_transpose", "untied", "per_head_scalar"),
        depends_on=_LATENT_MLP,
    )
    latent_strength: float = knob(0.2, help="Weight of the latent, each way.", depends_on=_LATENT_MLP)
    reciprocal_width: int = knob(
        64,
        help="Channels of the MLP that read the token with what its attention adds.",
        unit="channels",
        ge=1,
        depends_on=_RMLP,
    )
    tie: bool = knob(
        False,
        help="Their map is the first rows of the attention's output projection.",
        depends_on=_RMLP,
    )
    mixer: bool = knob(False, help="A square map mixes those channels.", depends_on=_RMLP)
    token_gate: bool = knob(
        False, help="Each token decides by how much it hears its attention.", depends_on=_RMLP
    )
    skip: float = knob(-3.0, help="Initial logit of the gate on those channels.", depends_on=_RMLP)
    context_width: int = knob(
        128,
        help="Channels through which the MLP hears what its attention adds.",
        unit="channels",
        ge=1,
        depends_on="model.mlp.name=lens-context",
    )
    conductor: bool = knob(
        False,
        help="It hears that only while the attention's share of the residual stream is below one half.",
        depends_on="model.mlp.name=lens-context",
    )
    activation: str = knob(
        "at-once",
        help="When those channels are switched on: at once, after some steps, or when the loss has calmed.",
        choices=("at-once", "delayed", "variance-guided"),
        depends_on=_RMLP,
    )
    activation_steps: int = knob(
        75,
        help="Steps before they are switched on.",
        unit="optimizer steps",
        ge=0,
        depends_on=_RMLP + " && model.mlp.activation=delayed",
    )
    activation_window: int = _WINDOW
    max_variation: float = _VARIATION
    max_slope: float = _SLOPE
    ramp_steps: int = _RAMP
