"""Knobs of the model: which one, the sizes that override its own, and the mechanisms of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchstone._errors import ConfigError
from torchstone.config.schema import Section, knob
from torchstone.nn.calm_knobs import calm_knobs
from torchstone.nn.mlp.config import MLPConfig as MLPConfig

NESTED = ("attention", "mlp")
"""Sections of mechanisms inside `model.*`; only models whose blocks are ours take them."""


_LATENT = "model.attention.name=mla|mla-ra|mla-ct|mla-ra-ct|ra_rank1_2025|mla-kvsplice"
_MAPPED = "model.attention.name=mla|mla-ra|mla-ct|mla-ra-ct|ra_rank1_2025"
_RECIPROCAL = "model.attention.name=ra|mla-ra|mla-ra-ct|ra_rank1_2025"
_FOLDED = "model.attention.name=ra-folded|ra_folded_untied_2025"
_GUIDED = "model.attention.name=ra-folded && model.attention.activation=variance-guided"
_CROSS_TOKEN = "model.attention.name=ra-ct|mla-ct|mla-ra-ct"
_ROUTE = "model.attention.name=lens && model.attention.route=y"
_CHOOSING = "model.attention.name=kv-pruned && model.attention.importance!=recency"
_WINDOW, _VARIATION, _SLOPE, _RAMP = calm_knobs(_GUIDED)


class AttentionConfig(Section):
    """`model.attention.*`: the mechanism and what it reads."""

    name: str | None = knob(
        None,
        help="Attention of the blocks; None: as the model has it.",
        choices=(
            "sdpa",
            "mla",
            "mla-ra",
            "mla-ct",
            "mla-ra-ct",
            "ra_rank1_2025",
            "ra",
            "ra-ct",
            "gated",
            "tied",
            "self-restart",
            "ra-folded",
            "ra_folded_untied_2025",
            "lens",
            "ra-residual",
            "rwr",
            "kv-pruned",
            "mla-kvsplice",
            "kvsplice",
        ),
    )
    latent: int = knob(
        128,
        help="Width of the latents that keys and values come from.",
        unit="channels",
        ge=1,
        depends_on=_LATENT,
    )
    maps: str = knob(
        "per-head",
        help="Whether each head has its own maps into and out of the latent, or all share one pair.",
        choices=("per-head", "shared"),
        depends_on=_MAPPED,
    )
    alpha: float = knob(
        0.3,
        help="Weight of the score of a pair the other way round; with learn_alpha its initial value.",
        depends_on=_RECIPROCAL,
    )
    learn_alpha: bool = knob(False, help="Alpha is a parameter of each block.", depends_on=_RECIPROCAL)
    window: int | None = knob(
        64,
        help="Places back over which the reciprocal term counts; None: all.",
        unit="tokens",
        ge=0,
        depends_on=_RECIPROCAL,
    )
    warmup_steps: int = knob(
        0,
        help="The reciprocal term grows from nothing to its weight over so many steps.",
        unit="optimizer steps",
        ge=0,
        depends_on=_RECIPROCAL,
    )
    statistic: str = knob(
        "topk",
        help="What of each row of weights moderates its head.",
        choices=("topk", "max", "entropy", "rms"),
        depends_on=_CROSS_TOKEN,
    )
    topk: int = knob(
        8,
        help="How many of the largest weights are summed.",
        unit="tokens",
        ge=1,
        depends_on=_CROSS_TOKEN + " && model.attention.statistic=topk",
    )
    apply: str = knob(
        "output",
        help="What is moderated: the head's output, its weights (scores, before the softmax), or its output "
        "without strength, as the code of 2025 did.",
        choices=("output", "weights", "output-2025"),
        depends_on=_CROSS_TOKEN,
    )
    strength: float = knob(
        0.2,
        help="Share of the moderated in the result.",
        unit="fraction",
        ge=0.0,
        le=1.0,
        depends_on=_CROSS_TOKEN + " && model.attention.apply=output|weights",
    )
    detach_stats: bool = knob(False, help="The statistic passes no gradient on.", depends_on=_CROSS_TOKEN)
    head_average: bool = knob(
        False, help="All heads see the statistic of their mean weights.", depends_on=_CROSS_TOKEN
    )
    tie: str = knob(
        "keys-values",
        help="Which projections are one.",
        choices=("keys-values", "keys-values-transposed", "queries-keys"),
        depends_on="model.attention.name=tied",
    )
    rank: int = knob(
        4,
        help="Channels of each head that carry the reciprocal term.",
        unit="channels",
        ge=1,
        depends_on=_FOLDED,
    )
    restart: bool = knob(
        False, help="A learned part of each head's output is the token's own value.", depends_on=_FOLDED
    )
    activation: str = knob(
        "after-steps",
        help="When the reciprocal term is switched on: after some steps, or when the loss has calmed.",
        choices=("after-steps", "variance-guided"),
        depends_on="model.attention.name=ra-folded",
    )
    activation_steps: int = knob(
        0,
        help="Steps before the reciprocal term is switched on; 0: it is there at once.",
        unit="optimizer steps",
        ge=0,
        depends_on="model.attention.name=ra-folded && model.attention.activation=after-steps",
    )
    activation_window: int = _WINDOW
    max_variation: float = _VARIATION
    max_slope: float = _SLOPE
    ramp_steps: int = _RAMP
    lens: str = knob(
        "both",
        help="What is weighed beside the score: reciprocity, discoverability, or both.",
        choices=("both", "reciprocity", "discoverability"),
        depends_on="model.attention.name=lens",
    )
    compress: int | None = knob(
        None,
        help="Width of the latents that keys and values come from, and that are cached; None: no latents.",
        unit="channels",
        ge=1,
        depends_on="model.attention.name=lens",
    )
    route: bool = knob(
        False,
        help="The attention decides how it shares the residual stream with the MLP.",
        depends_on="model.attention.name=lens",
    )
    route_start: int = knob(
        2000,
        help="Steps after which the attention's share begins to fall.",
        unit="optimizer steps",
        ge=0,
        depends_on=_ROUTE,
    )
    route_stop: int = knob(
        10_000,
        help="Steps after which it falls no further.",
        unit="optimizer steps",
        ge=1,
        depends_on=_ROUTE,
    )
    swapped_heads: int = knob(
        1,
        help="Heads whose queries and keys change places.",
        unit="heads",
        ge=1,
        depends_on="model.attention.name=ra-residual",
    )
    swapped_layers: int = knob(
        3,
        help="Blocks in the middle that have swapped heads.",
        unit="blocks",
        ge=1,
        depends_on="model.attention.name=ra-residual",
    )
    walk_window: int = knob(
        128,
        help="Places back that local attention and a walk's step reach.",
        unit="tokens",
        ge=0,
        depends_on="model.attention.name=rwr",
    )
    edges: int = knob(
        32,
        help="Places that a walk can go on to, beside staying.",
        unit="tokens",
        ge=1,
        depends_on="model.attention.name=rwr",
    )
    walk_steps: int = knob(
        4, help="Steps of the longest walk.", unit="steps", ge=1, depends_on="model.attention.name=rwr"
    )
    restart_probability: float = knob(
        0.2,
        help="Chance that a walk ends at each step.",
        unit="probability",
        gt=0.0,
        lt=1.0,
        depends_on="model.attention.name=rwr",
    )
    gamma: float = knob(
        0.3, help="Weight of the walks beside local attention.", depends_on="model.attention.name=rwr"
    )
    importance: str = knob(
        "attention",
        help="What decides which of the places that are not recent stay.",
        choices=("attention", "norm", "learned", "recency"),
        depends_on="model.attention.name=kv-pruned",
    )
    drop: str = knob(
        "values",
        help="What of the other places is dropped: their values, so that the attention of all keys decides; "
        "or their keys too, so that the scores of what is left decide.",
        choices=("values", "keys-values"),
        depends_on="model.attention.name=kv-pruned && model.attention.importance=attention",
    )
    keep: int = knob(
        391,
        help="Places that stay besides the recent ones, at most.",
        unit="tokens",
        ge=1,
        depends_on=_CHOOSING,
    )
    budget: str = knob(
        "fixed",
        help="Whether each head keeps `keep` places, a learned part of them, or fewer the more the MLP of "
        "its block hears of its attention.",
        choices=("fixed", "learned", "gate-informed"),
        depends_on=_CHOOSING,
    )
    beta: float = knob(
        1.0,
        help="How much the MLP's hearing lowers what is kept.",
        ge=0.0,
        depends_on=_CHOOSING + " && model.attention.budget=gate-informed",
    )
    recent: int = knob(
        64,
        help="Last places that always stay, the own one among them.",
        unit="tokens",
        ge=1,
        depends_on="model.attention.name=kv-pruned",
    )
    kept: int = knob(
        64,
        help="Width of what is cached of the latent.",
        unit="channels",
        ge=1,
        depends_on="model.attention.name=mla-kvsplice",
    )
    value_rank: int = knob(
        16,
        help="Dimensions of a head's values that are cached.",
        unit="channels",
        ge=1,
        depends_on="model.attention.name=kvsplice",
    )


class ModelConfig(Section):
    """`model.*`: sizes are None where the model tells them itself."""

    target: str = knob(
        "zoo:gpt-nano", help="The model: a TARGET such as zoo:gpt-nano, path/model.py or hf:NAME."
    )
    vocab_size: int | None = knob(None, help="Rows of the token embedding.", unit="tokens", ge=1)
    max_seq_len: int | None = knob(None, help="Longest sequence the model takes.", unit="tokens", ge=1)
    d_model: int | None = knob(None, help="Width of the residual stream.", unit="channels", ge=1)
    num_layers: int | None = knob(None, help="Number of blocks.", unit="blocks", ge=1)
    num_heads: int | None = knob(None, help="Attention heads per block.", unit="heads", ge=1)
    d_ff: int | None = knob(
        None,
        help="Hidden width of the MLP.",
        unit="channels",
        ge=1,
        depends_on="model.mlp.ratio=none",
    )
    dropout: float | None = knob(None, help="Dropout probability.", unit="probability", ge=0.0, lt=1.0)
    norm: str | None = knob(
        None, help="Norm of the blocks; None: as the model has it.", choices=("layernorm", "rmsnorm")
    )
    norm_eps: float | None = knob(None, help="Added to the variance in every norm of the blocks.", gt=0.0)
    activation: str | None = knob(
        None,
        help="What bends the hidden channels of the MLPs; None: as the model has it.",
        choices=("gelu", "gelu-tanh", "relu2", "swiglu"),
        source="arXiv:1606.08415, arXiv:2109.08668, arXiv:2002.05202",
    )
    qk_norm: bool | None = knob(
        None,
        help="An RMSNorm on the queries and on the keys of each head.",
        source="arXiv:2010.04245, arXiv:2505.09388",
    )
    bias: bool | None = knob(None, help="Projections and layer norms of the blocks have biases.")
    positions: str | None = knob(
        None,
        help="A table of positions or rotary ones; None: as the model has it.",
        choices=("learned", "rope"),
        source="rope: arXiv:2104.09864",
    )
    tie_word_embeddings: bool | None = knob(None, help="The output layer shares the token embedding.")
    vocab_multiple: int | None = knob(
        None,
        help="Rows of embedding and head are rounded up to a multiple of it; those beyond the vocabulary get "
        "no logits, so they are never spoken.",
        unit="tokens",
        ge=1,
    )
    attention: AttentionConfig = AttentionConfig()
    mlp: MLPConfig = MLPConfig()

    def overrides(self) -> dict[str, Any]:
        """What replaces the model's own choices: `load(..., overrides=config.overrides())`.

        Sizes that were said, and for each mechanism that was chosen or sized its name with the
        options that it reads.
        """
        said = self.model_dump(exclude={"target", *NESTED})
        wishes = {name: value for name, value in said.items() if value is not None}
        for section in NESTED:
            if getattr(self, section).name is not None or (section == "mlp" and self.mlp.ratio is not None):
                wishes[section] = self.options(section)
        return wishes

    def options(self, section: str) -> dict[str, Any]:
        """The values of `attention` or `mlp` that are in effect: those that the chosen mechanism reads."""
        from torchstone.config.knobs import knobs_of
        from torchstone.config.values import in_effect

        knobs = knobs_of({"model": type(self)})
        plain = {}
        for key in knobs:
            value: Any = self
            for step in key.split(".")[1:]:
                value = getattr(value, step)
            plain[key] = value
        head = f"model.{section}."
        return {
            key.removeprefix(head): value
            for key, value in plain.items()
            if key.startswith(head) and in_effect(key, knobs, plain)
        }


def require_effect(attention: AttentionConfig, mlp: MLPConfig) -> None:
    """A ConfigError for an option that was given and that the chosen mechanism does not read."""
    from torchstone.config.resolved import Resolved

    Resolved.of_sections({"model": ModelConfig(attention=attention, mlp=mlp)})


def mechanisms_from(wishes: Mapping[str, Any]) -> dict[str, Section]:
    """The sections in `wishes` that are plain dictionaries, as they come from files: {"attention": {...}}."""
    from pydantic import ValidationError

    kinds: dict[str, type[Section]] = {"attention": AttentionConfig, "mlp": MLPConfig}
    found: dict[str, Section] = {}
    for section, kind in kinds.items():
        said = wishes.get(section)
        if isinstance(said, Mapping):
            try:
                found[section] = kind(**said)
            except ValidationError as refused:
                first = refused.errors(include_url=False)[0]
                key = ".".join(["model", section, *map(str, first["loc"])])
                raise ConfigError(f"{key}: {str(first['msg']).removeprefix('Value error, ')}") from None
    return found
