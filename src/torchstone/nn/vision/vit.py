"""A small vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929).

The image is cut into patches, each projected to a token; a class token in front collects the answer. Pre-norm
encoder blocks. The defaults are the "tiny" width of Touvron et al. 2020 (arXiv:2012.12877: 192 channels, 12
blocks, 3 heads) with 4x4 patches for 32x32 images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.norms import make_norm
from torchstone.nn.vision.images import require_images

if TYPE_CHECKING:
    from jaxtyping import Float

INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of a `ViT`."""

    num_classes: int = 10
    num_channels: int = 3
    image_size: int = 32
    """Side of the square image, pixels."""
    patch_size: int = 4
    """Side of the square patch, pixels."""
    d_model: int = 192
    num_layers: int = 12
    num_heads: int = 3
    d_ff: int | None = None
    """Hidden width of the MLP, channels; None: four times d_model."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size={self.image_size} cannot be cut into patches of {self.patch_size} pixels",
                next=f"choose an image_size that is a multiple of {self.patch_size}",
            )
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"d_model={self.d_model} cannot be shared among num_heads={self.num_heads}",
                next=f"choose a d_model that is a multiple of {self.num_heads}",
            )

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def hidden_width(self) -> int:
        return 4 * self.d_model if self.d_ff is None else self.d_ff


class ViT(nn.Module):
    """`(B, channels, size, size) -> (B, classes)`."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(
            config.num_channels, config.d_model, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.class_token = nn.Parameter(torch.empty(1, 1, config.d_model))
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_tokens, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(EncoderBlock(config) for _ in range(config.num_layers)))
        self.final_norm = make_norm("layernorm", config.d_model)
        self.classifier = nn.Linear(config.d_model, config.num_classes)
        self._initialise()

    def forward(self, pixel_values: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B classes"]:
        require_images(pixel_values, self.config.num_channels, self.config.image_size)
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        x = self.blocks(self.dropout(x + self.position_embedding))
        return self.classifier(self.final_norm(x[:, 0]))

    def _initialise(self) -> None:
        for parameter in (self.class_token, self.position_embedding):
            nn.init.normal_(parameter, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=INIT_STD)
                assert module.bias is not None
                nn.init.zeros_(module.bias)


class EncoderBlock(nn.Module):
    """Every token sees every token: attention and MLP, each behind a norm."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_dropout = config.dropout
        self.attention_norm = make_norm("layernorm", config.d_model)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)
        self.mlp_norm = make_norm("layernorm", config.d_model)
        self.mlp = nn.Sequential(
            nn.Linear(config.d_model, config.hidden_width),
            nn.GELU(),
            nn.Linear(config.hidden_width, config.d_model),
        )
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        x = x + self.residual_dropout(self._attend(self.attention_norm(x)))
        return x + self.residual_dropout(self.mlp(self.mlp_norm(x)))

    def _attend(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.attention_dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).flatten(2))
