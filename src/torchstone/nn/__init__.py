"""Our own bricks in plain torch: norms, attention, MLP, the GPT reference decoder, small vision models.

The names below are imported when first used; nothing here imports torch by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily

_HOMES = {
    "AttentionConfig": "torchstone.nn.config",
    "GPT": "torchstone.nn.gpt",
    "GPTConfig": "torchstone.nn.gpt",
    "LeNet5": "torchstone.nn.vision.lenet5",
    "MLPConfig": "torchstone.nn.config",
    "ResNet18": "torchstone.nn.vision.resnet",
    "ResNet50": "torchstone.nn.vision.resnet",
    "ViT": "torchstone.nn.vision.vit",
    "ViTConfig": "torchstone.nn.vision.vit",
    "ZOO": "torchstone.nn.zoo",
    "ZooModel": "torchstone.nn.zoo",
}

__all__ = [
    "GPT",
    "ZOO",
    "AttentionConfig",
    "GPTConfig",
    "LeNet5",
    "MLPConfig",
    "ResNet18",
    "ResNet50",
    "ViT",
    "ViTConfig",
    "ZooModel",
]

if TYPE_CHECKING:
    from torchstone.nn.config import AttentionConfig as AttentionConfig
    from torchstone.nn.config import MLPConfig as MLPConfig
    from torchstone.nn.gpt import GPT as GPT
    from torchstone.nn.gpt import GPTConfig as GPTConfig
    from torchstone.nn.vision.lenet5 import LeNet5 as LeNet5
    from torchstone.nn.vision.resnet import ResNet18 as ResNet18
    from torchstone.nn.vision.resnet import ResNet50 as ResNet50
    from torchstone.nn.vision.vit import ViT as ViT
    from torchstone.nn.vision.vit import ViTConfig as ViTConfig
    from torchstone.nn.zoo import ZOO as ZOO
    from torchstone.nn.zoo import ZooModel as ZooModel

__getattr__, __dir__ = lazily(__name__, _HOMES)
