"""The reference models that `zoo:NAME` builds, as a registry of recipes.

    module, config = ZOO.get("gpt-nano").build({"d_model": 64})

A recipe gives an untrained module (seed it before) and the plain dictionary that describes it. An override
that the model has no use for is an error, for a wish that changes nothing must not pass in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from torchstone._errors import ConfigError
from torchstone._registry import Registry, suggest
from torchstone.nn.config import NESTED, ModelConfig, mechanisms_from
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.nn.sizing import without_ratio
from torchstone.nn.vision.lenet5 import IMAGE_SIZE, LeNet5
from torchstone.nn.vision.resnet import ResNet18, ResNet50
from torchstone.nn.vision.vit import ViT, ViTConfig

Built = tuple[nn.Module, dict[str, Any]]


@dataclass(frozen=True)
class ZooModel:
    """One recipe; `source` is the paper or code it follows, `knobs` the overrides it understands."""

    name: str
    summary: str
    source: str
    knobs: tuple[str, ...]
    make: Callable[[dict[str, Any]], Built]
    config: GPTConfig | None = None
    """Of a GPT: what `costs` takes."""

    def build(self, overrides: ModelConfig | Mapping[str, Any] | None = None) -> Built:
        """The module and its configuration; overrides of None mean: as the recipe says."""
        if isinstance(overrides, ModelConfig):
            overrides = overrides.overrides()
        wishes = {key: value for key, value in (overrides or {}).items() if value is not None}
        for key in wishes:
            if key not in self.knobs:
                raise ConfigError(
                    f"model.{key} has no effect on zoo:{self.name}",
                    why=suggest(key, self.knobs),
                    next=f"leave it out; zoo:{self.name} takes: {', '.join(self.knobs)}",
                )
        return self.make(wishes)


GPT_KNOBS = ("vocab_size", "max_seq_len", "d_model", "num_layers", "num_heads", "d_ff", "dropout")
GPT_EXTRA_KNOBS = (
    "norm",
    "norm_eps",
    "activation",
    "qk_norm",
    "bias",
    "positions",
    "tie_word_embeddings",
    "vocab_multiple",
    *NESTED,
)
VIT_KNOBS = ("d_model", "num_layers", "num_heads", "d_ff", "dropout", "patch_size")
IMAGE_KNOBS = ("num_classes", "num_channels")

ZOO: Registry[ZooModel] = Registry("zoo model")


def _gpt(config: GPTConfig) -> Callable[[dict[str, Any]], Built]:
    def make(wishes: dict[str, Any]) -> Built:
        sizes = replace(config, **wishes | mechanisms_from(wishes))
        # The width that was found is described, not how: both together would be two answers to one question.
        chosen = ModelConfig(attention=sizes.attention, mlp=without_ratio(sizes.mlp))
        described = asdict(sizes) | {"d_ff": sizes.hidden_width}
        described |= {section: chosen.options(section) for section in NESTED}
        return GPT(sizes), {"model_type": "gpt", "task": "causal-lm", **described}

    return make


def _vit(config: ViTConfig) -> Callable[[dict[str, Any]], Built]:
    def make(wishes: dict[str, Any]) -> Built:
        sizes = replace(config, **wishes)
        described = asdict(sizes) | {"d_ff": sizes.hidden_width}
        return ViT(sizes), {"model_type": "vit", "task": "vision", **described}

    return make


def _lenet5(wishes: dict[str, Any]) -> Built:
    sizes = {"num_classes": 10, "num_channels": 1, "batch_norm": True} | wishes
    described = {"model_type": "lenet5", "task": "vision", "image_size": IMAGE_SIZE, **sizes}
    return LeNet5(**sizes), described


def _resnet(name: str, kind: type[ResNet18 | ResNet50]) -> Callable[[dict[str, Any]], Built]:
    def make(wishes: dict[str, Any]) -> Built:
        sizes = {"num_classes": 10, "num_channels": 3} | wishes
        return kind(**sizes), {"model_type": name, "task": "vision", "image_size": 32, **sizes}

    return make


GPT2_SOURCE = "Radford et al. 2019, openai/gpt-2: src/model.py"
MODERN_SOURCE = (
    "the block of arXiv:2302.13971 (RMSNorm: arXiv:1910.07467, SwiGLU: arXiv:2002.05202, "
    "RoPE: arXiv:2104.09864, no biases) with the normed queries and keys of arXiv:2505.09388"
)


def _add_gpt(name: str, summary: str, config: GPTConfig, source: str = GPT2_SOURCE) -> None:
    ZOO.add(ZooModel(name, summary, source, GPT_KNOBS + GPT_EXTRA_KNOBS, _gpt(config), config))


_add_gpt(
    "gpt-nano",
    "four small blocks that train in seconds on a laptop",
    GPTConfig(vocab_size=2048, max_seq_len=256, d_model=128, num_layers=4, num_heads=4),
)
_add_gpt(
    "gpt-tiny",
    "some ten million parameters, for minutes on a CPU",
    GPTConfig(vocab_size=8192, max_seq_len=512, d_model=320, num_layers=6, num_heads=5),
)
_add_gpt("gpt2", "GPT-2 small, random weights", GPTConfig())
_add_gpt(
    "gpt2-medium",
    "GPT-2 medium, random weights",
    GPTConfig(d_model=1024, num_layers=24, num_heads=16),
)
_add_gpt(
    "gpt2-large",
    "GPT-2 large, random weights",
    GPTConfig(d_model=1280, num_layers=36, num_heads=20),
)
_add_gpt(
    "gpt2-xl",
    "GPT-2 XL, random weights",
    GPTConfig(d_model=1600, num_layers=48, num_heads=25),
)
_add_gpt(
    "gpt-modern",
    "the sizes of GPT-2 small with the block of today: RMSNorm, RoPE, SwiGLU, QK-norm, no biases",
    GPTConfig(
        norm="rmsnorm",
        norm_eps=1e-6,
        positions="rope",
        activation="swiglu",
        qk_norm=True,
        bias=False,
        vocab_multiple=64,
    ),
    MODERN_SOURCE,
)
ZOO.add(
    ZooModel(
        "lenet5",
        "LeNet-5 with batch norm for 32x32 images",
        "LeCun et al. 1998, Proceedings of the IEEE 86(11)",
        (*IMAGE_KNOBS, "batch_norm"),
        _lenet5,
    )
)
for _name, _kind in (("resnet18", ResNet18), ("resnet50", ResNet50)):
    ZOO.add(
        ZooModel(
            _name,
            f"ResNet-{_name[6:]} with the stem for 32x32 images",
            "He et al. 2015, arXiv:1512.03385",
            IMAGE_KNOBS,
            _resnet(_name, _kind),
        )
    )
ZOO.add(
    ZooModel(
        "vit-tiny",
        "a vision transformer of 192 channels for 32x32 images",
        "Dosovitskiy et al. 2020, arXiv:2010.11929; Touvron et al. 2020, arXiv:2012.12877",
        (*IMAGE_KNOBS, "image_size", *VIT_KNOBS),
        _vit(ViTConfig()),
    )
)
