"""Small models with every mechanism, for each value of its knobs, for the laws over the registries.

A case is what `GPTConfig(attention=..., mlp=...)` takes. Cases are read off the knobs: a mechanism alone with
the values below, then one knob changed at a time, then rotary positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstone._errors import ConfigError
from torchstone.config.knobs import Knob, knobs_of
from torchstone.nn.config import ModelConfig, mechanisms_from
from torchstone.nn.gpt import GPT, GPTConfig

V, L = 37, 24
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
    "reciprocal_width": (20,),
    "activation_steps": (5,),
    "activation_window": (4,),
    "ramp_steps": (3,),
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
    "ra_rank1_2025": ({"window": None, "learn_alpha": True},),
    "mla-ra-ct": (
        {"statistic": "entropy", "apply": "weights", "maps": "shared", "learn_alpha": True},
        {"statistic": "max", "window": None},
    ),
}
COMPOSED = ("mla-ct", "mla-ra-ct", "ra_rank1_2025")
"""Made of parts whose knobs are tried one by one where the parts stand alone."""


def main_cases(section: str, name: str) -> list[dict[str, Any]]:
    """The usual configuration, and the settings that are worth trying together."""
    return cases(section, name)[: 1 + len(TOGETHER.get(name, ()))]


def cases(section: str, name: str) -> list[dict[str, Any]]:
    """Every configuration to try of the mechanism `name` of `section` (attention or mlp)."""
    usual = {"name": name}
    found = [usual]
    for option, knob in _knobs(section).items():
        if option != "name" and option in _effective(section, usual):
            usual |= {option: _values(option, knob)[0]}
    usual = _effective(section, usual)
    found = [{section: usual}]
    for settings in TOGETHER.get(name, ()):
        found.append({section: _effective(section, usual | settings)})
    for option in usual:
        if option != "name" and name not in COMPOSED:
            for value in _values(option, _knobs(section)[option])[1:]:
                found.append({section: _effective(section, usual | {option: value})})
    return [*found, *([{**found[0], "positions": "rope"}] if _takes_rope(found[0]) else [])]


def tiny(case: dict[str, Any], **changes: object) -> GPT:
    """A model off its initial values, so that every bias and every gate counts."""
    torch.manual_seed(0)
    model = GPT(config_of(case, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def config_of(case: dict[str, Any], **changes: object) -> GPTConfig:
    return GPTConfig(**{**SIZES, **case, **changes, **mechanisms_from(case)})


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


def label(case: dict[str, Any]) -> str:
    """The case in a test's name."""
    parts = [case[section]["name"] for section in ("attention", "mlp") if section in case]
    for section in ("attention", "mlp"):
        if section in case:
            usual = cases(section, case[section]["name"])[0][section]
            parts += [f"{key}={value}" for key, value in case[section].items() if usual.get(key) != value]
    return "-".join([*parts, *(["rope"] if case.get("positions") == "rope" else [])])


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


def _takes_rope(case: dict[str, Any]) -> bool:
    try:
        config_of(case, positions="rope")
    except ConfigError:
        return False
    return True
