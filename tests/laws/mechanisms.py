"""Small models with every mechanism, for each value of its knobs, for the laws over the registries.

A case is read off the knobs: a mechanism alone with the values below, then settings worth trying together,
then one knob changed at a time, then as much of a modern block around it as it takes (`MODERN`).
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torchstone._errors import ConfigError
from torchstone.config.knobs import Knob, knobs_of
from torchstone.nn.attention.lens import Route
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import ModelConfig, mechanisms_from
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.nn.mlp.registry import MLPS

V, L = 37, 14
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "max_seq_len": L,
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 4,
}
# Values fit for the sizes above, the usual one first. Knobs that are not here take all that they are able to.
VALUES: dict[str, tuple[Any, ...]] = {
    "latent": (6,),
    "window": (3, None, 0),
    "topk": (2,),
    "warmup_steps": (0, 5),
    "rank": (2,),
    "compress": (None, 5),
    "swapped_heads": (1, 3),
    "swapped_layers": (3, 1),
    "walk_window": (4, 0),
    "edges": (2, 9),
    "walk_steps": (3,),
    "keep": (3,),
    "recent": (2, 1),
    "kept": (3, 6),
    "value_rank": (3,),
    "gate_width": (3,),
    "bottleneck": (5,),
    "reciprocal_width": (9,),
    "activation_steps": (5, 0),
    "activation_window": (4,),
    "ramp_steps": (3,),
    "context_width": (5,),
    "route_start": (2,),
    "route_stop": (4,),
}
# Settings that are worth trying together.
TOGETHER: dict[str, tuple[dict[str, Any], ...]] = {
    "ra-ct": (
        {"statistic": "entropy", "apply": "weights"},
        {"statistic": "entropy", "detach_stats": True},
        {"statistic": "entropy", "head_average": True},
    ),
    "mla-ct": ({"statistic": "rms", "maps": "shared"},),
    "lens": (
        {"compress": 5, "route": True},
        {"compress": 5, "lens": "reciprocity"},
        {"compress": 5, "lens": "discoverability"},
    ),
    "reciprocal": (
        {"attention_gate": "running-mean", "sparsify": "rms"},
        {"cross_token": False},
        {"latent_context": True},
        {"latent_context": True, "tying": "untied", "attention_gate": "off"},
        {"latent_context": True, "tying": "per_head_scalar"},
    ),
    "kv-pruned": (
        {"drop": "keys-values", "budget": "gate-informed"},
        {"importance": "learned", "budget": "learned"},
        {"importance": "norm", "budget": "learned"},
    ),
    "r-mlp": ({"tie": True, "reciprocal_width": 7, "activation": "delayed"},),
    "ra_rank1_2025": ({"window": None, "learn_alpha": True},),
    "mla-ra-ct": (
        {"statistic": "entropy", "apply": "weights", "maps": "shared", "learn_alpha": True},
        {"statistic": "max", "window": None},
    ),
}
MODERN: tuple[tuple[str, Any], ...] = (
    ("positions", "rope"),
    ("qk_norm", True),
    ("activation", "relu2"),
    ("activation", "swiglu"),
    ("bias", False),
    ("norm", "rmsnorm"),
    ("norm_eps", 1e-3),
    ("vocab_multiple", 8),
)
"""What is around a mechanism and reaches into it; of one key, the last that it takes."""
COMPOSED = ("mla-ct", "mla-ra-ct", "ra_rank1_2025")
"""Made of parts whose knobs are tried one by one where the parts stand alone."""
LATENT = {"name": "mla", "latent": 6}
"""The attention of an MLP that reads a latent."""
ROUTED = {"name": "lens", "lens": "both", "route": True}
"""The attention of an MLP that follows its route; the models of these laws are at the end of it."""
INFORMANT = {"name": "r-mlp", "reciprocal_width": 9, "skip": 1.0}
"""The MLP of an attention that is informed by it."""


@dataclass(frozen=True)
class Case:
    """What `GPTConfig(attention=..., mlp=...)` takes beside its sizes."""

    label: str
    section: str
    """Of the mechanism that is tried: attention or mlp."""
    settings: dict[str, Any] = field(compare=False)
    rank: int = 0
    """0: the usual values of its mechanism, 1: worth trying together, 2: one knob changed."""

    @property
    def name(self) -> str:
        return str(self.settings[self.section]["name"])

    def config(self, **changes: Any) -> GPTConfig:
        return config_of(self.settings, **changes)


def config_of(settings: dict[str, Any], **changes: Any) -> GPTConfig:
    return GPTConfig(**{**SIZES, **settings, **changes, **mechanisms_from(settings)})


@functools.cache
def shared(case: Case, **changes: Any) -> GPT:
    """The model of the case, off its initial values, so that every bias and every gate counts.

    It is built once for all laws: who changes it takes a copy, `tiny`.
    """
    torch.manual_seed(0)
    model = GPT(case.config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
            if name.endswith(".share"):
                parameter.clamp_(0.01, 0.49)  # inside the bounds where it counts
    for module in model.modules():
        if isinstance(module, Route):
            module.at_step(module.stop)
    return model


def tiny(case: Case, **changes: Any) -> GPT:
    return copy.deepcopy(shared(case, **changes))


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


def gradients(logits: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Of every parameter; zeros where there is none."""
    names = dict(model.named_parameters())
    found = torch.autograd.grad(logits.pow(2).mean(), list(names.values()), allow_unused=True)
    return {
        name: torch.zeros_like(names[name]) if each is None else each
        for name, each in zip(names, found, strict=True)
    }


def counted_flops(model: GPT, tokens: int) -> int:
    """Of one forward pass, as torch counts them, and the fused kernel of its own CPU, which it does not."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: _fused_flops}) as counter:
        model(ids(1, tokens))
    return int(counter.get_total_flops())


def _fused_flops(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    B, H, T, D = q
    return int(2 * B * H * T * k[2] * (D + v[3]))


def cases(section: str, name: str) -> list[Case]:
    """Every configuration to try of the mechanism `name` of `section`, the usual one first."""
    values = {"name": name}
    for option, knob in _knobs(section).items():
        if option != "name" and option in _effective(section, values):
            values |= {option: _values(option, knob)[0]}
    usual = _effective(section, values)
    found = [_case(section, usual, usual, 0)]
    for settings in TOGETHER.get(name, ()):
        found.append(_case(section, _effective(section, usual | settings), usual, 1))
    for option in usual:
        if option != "name" and name not in COMPOSED:
            for value in _values(option, _knobs(section)[option])[1:]:
                found.append(_case(section, _effective(section, usual | {option: value}), usual, 2))
    plain = found[0].settings
    return [*found, Case(f"{name}-modern", section, plain | _modern(plain), 2)]


def _case(section: str, options: dict[str, Any], usual: dict[str, Any], rank: int) -> Case:
    changed = [f"{key}={value}" for key, value in options.items() if usual.get(key) != value]
    settings: dict[str, Any] = {section: options}
    if section == "mlp":
        settings["num_layers"] = 3  # one that only sends, one that hears and sends, one that only hears
    if options.get("latent_context"):
        settings["attention"] = LATENT
    if options.get("conductor"):
        settings["attention"] = ROUTED
    if options.get("budget") == "gate-informed":
        settings["mlp"] = INFORMANT
    return Case("-".join([options["name"], *changed]), section, settings, rank)


@functools.cache
def _knobs(section: str) -> dict[str, Knob]:
    head = f"model.{section}."
    return {
        key.removeprefix(head): knob
        for key, knob in knobs_of({"model": ModelConfig}).items()
        if key.startswith(head)
    }


def _effective(section: str, said: dict[str, Any]) -> dict[str, Any]:
    return ModelConfig(**{section: said}).options(section)


def _values(option: str, knob: Knob) -> tuple[Any, ...]:
    if option in VALUES:
        return VALUES[option]
    if knob.choices:
        return (knob.default, *(each for each in knob.choices if each != knob.default))
    if knob.kind == "bool":
        return (knob.default, not knob.default)
    assert knob.kind == "float", f"say in VALUES which values of {knob.key} fit a small model"
    return (knob.default,)


def _modern(settings: dict[str, Any]) -> dict[str, Any]:
    """What the mechanism takes of MODERN."""
    taken: dict[str, Any] = {}
    for key, value in MODERN:
        try:
            config_of(settings, **{key: value})
        except ConfigError:
            continue
        taken[key] = value
    return taken


OF_ATTENTION = {record.name: cases("attention", record.name) for record in ATTENTIONS}
OF_MLP = {record.name: cases("mlp", record.name) for record in MLPS}
CASES = [case for found in (*OF_ATTENTION.values(), *OF_MLP.values()) for case in found]
