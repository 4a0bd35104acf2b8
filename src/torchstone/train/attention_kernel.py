"""Which attention kernel really runs, layer by layer: watched in one forward pass, not read from a setting.

    observed_kernels(module, run)    # {"blocks.0.attention": "flash (cpu)", "blocks.1.attention": ...}

`scaled_dot_product_attention` chooses a backend by shapes, masks, dtype and device; below it, each backend is
an operation of its own, and that is what is seen here. Attention written out shows as a softmax between two
matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

KERNELS = {
    "_scaled_dot_product_flash_attention_for_cpu": "flash (cpu)",
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_efficient_attention": "memory-efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_scaled_dot_product_fused_attention_overrideable": "fused (device's own)",
    "_scaled_dot_product_attention_math_for_mps": "math (mps)",
    "_transformer_encoder_layer_fwd": "fused encoder layer",
    "flex_attention": "flex",
}
SOFTMAX = ("_softmax", "_safe_softmax")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path: list[str] = []
        self.seen: dict[str, set[str]] = {}

    def leave(self, *_: Any) -> None:
        self.path.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        kernel = KERNELS.get(name)
        if kernel is None and name in SOFTMAX and args[0].dim() >= 3 and args[0].shape[-2] > 1:
            kernel = "written out (softmax)"
        if kernel is not None:
            self.seen.setdefault(self.path[-1] if self.path else "model", set()).add(kernel)
        return func(*args, **(kwargs or {}))


def observed_kernels(module: nn.Module, run: Callable[[], Any]) -> dict[str, str]:
    """Innermost module that computes attention -> kernel(s) that `run` made it use."""
    watch = _Watch()
    handles = []
    for name, each in module.named_modules():
        if name:
            handles.append(each.register_forward_pre_hook(lambda *_, name=name: watch.path.append(name)))
            handles.append(each.register_forward_hook(watch.leave, always_call=True))
    try:
        with watch:
            run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: ", ".join(sorted(kernels)) for name, kernels in watch.seen.items()}


def summary(kernels: dict[str, str]) -> str:
    """One line: how many layers use which kernel."""
    if not kernels:
        return "none seen"
    counts: dict[str, int] = {}
    for kernel in kernels.values():
        counts[kernel] = counts.get(kernel, 0) + 1
    return "; ".join(f"{kernel} in {count} layer{'s' * (count > 1)}" for kernel, count in counts.items())
