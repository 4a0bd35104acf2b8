"""Buffers that a state dict leaves out (persistent=False), so that a resumed run has them as they were.

Some are tables that the constructor computes again; others are changed by training (a running scale, a
counter, a cache). Nobody can tell them apart from outside, so all of them are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torchstone._errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


def unlisted_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The live tensors, by dotted name."""
    return {
        f"{path}.{name}" if path else name: buffer
        for path, owner in module.named_modules()
        for name, buffer in owner._buffers.items()
        if name in owner._non_persistent_buffers_set and buffer is not None
    }


def restore_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Put them back; one that has another shape by now, or does not exist yet, is set anew."""
    import torch

    for name, kept in buffers.items():
        path, _, last = name.rpartition(".")
        try:
            owner = module.get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"the model has no module {path}, whose buffer {last} was saved") from error
        own = owner._buffers.get(last)
        if own is not None and own.shape == kept.shape and own.dtype == kept.dtype:
            with torch.no_grad():
                own.copy_(kept)
        else:
            anchor = own if own is not None else next(module.parameters(), None)
            device = kept.device if anchor is None else anchor.device
            owner.register_buffer(last, kept.to(device, copy=True), persistent=False)
