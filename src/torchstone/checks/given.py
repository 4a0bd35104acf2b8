"""Example inputs made in the likeness of inputs that the user gave (`check(module, inputs=...)`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


def named_inputs(inputs: Any, signature: Any) -> dict[str, Any]:
    """`inputs` (a tensor, a tuple for a positional call, or a dict of keywords) under natural names."""
    arguments = [each for each in signature.arguments if not each.kind.startswith("var-")]
    if isinstance(inputs, dict):
        own = {each.name: each.natural for each in arguments}
        return {str(own.get(name, name)): value for name, value in inputs.items()}
    values = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    if len(values) > len(arguments):
        raise ModelError(
            f"{len(values)} inputs were given, forward takes {len(arguments)}",
            where=str(signature),
            next="give inputs= as the dict of keyword arguments",
        )
    return {argument.natural: value for argument, value in zip(arguments, values, strict=False)}


class GivenExamples:
    """Batches that look like the given one: same shapes and ranges, other sizes and values."""

    def __init__(self, given: dict[str, Any], primary: str, vocab_size: int | None) -> None:
        self.given = given
        self.primary = primary if primary in given else next(iter(given))
        main = given[self.primary]
        self._rows = main.shape[0] if isinstance(main, torch.Tensor) and main.dim() else 1
        self._length = main.shape[1] if isinstance(main, torch.Tensor) and main.dim() > 1 else None
        self._vocab_size = vocab_size

    def batch(self, batch_size: int = 2, length: int | None = None, seed: int = 0) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: self._alike(name, value, batch_size, length, generator)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in self.given.items()
        }

    def _alike(
        self, name: str, value: Tensor, batch_size: int, length: int | None, generator: torch.Generator
    ) -> Tensor:
        value = value.detach().cpu()
        shape = list(value.shape)
        if shape and shape[0] == self._rows:
            shape[0] = batch_size
        # Only token sequences can be made longer or shorter; images and features keep their size.
        if length is not None and self.given[self.primary].dim() == 2 and not value.is_floating_point():
            shape = shape[:1] + [length if size == self._length else size for size in shape[1:]]
        if value.is_floating_point():
            spread = float(value.std()) if value.numel() > 1 else 1.0
            noise = torch.randn(shape, generator=generator) * (spread or 1.0)
            return (noise + float(value.mean())).to(value.dtype)
        if name == "attention_mask" or value.dtype == torch.bool or name.endswith("_mask"):
            return torch.ones(shape, dtype=value.dtype)
        if name == "position_ids":
            return torch.arange(shape[-1]).expand(shape).clone().to(value.dtype)
        high = int(value.max()) + 1
        if name in ("input_ids", "decoder_input_ids", "labels"):
            high = max(high, self._vocab_size or 0)
        return torch.randint(0, max(high, 1), shape, generator=generator).to(value.dtype)
