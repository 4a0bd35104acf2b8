"""Tensors as a safetensors file, streamed: no second copy of them in memory, and hashed on the way.

The library takes no file object, so its bytes could be hashed only by reading them again, and it does not say
which error of the disk it met. So the header is written here, after the description of the format
(https://github.com/huggingface/safetensors): 8 bytes length, little-endian; JSON of name -> dtype, shape,
data_offsets; then the data without gaps. Reading is the library's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from torchstone._errors import TorchstoneError
from torchstone.tracking.hashed_file import HashedFile, hashed_file

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format can name."""


class NotStorable(TorchstoneError):
    """A value that has no place in a checkpoint."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    hasher: ThreadPoolExecutor | None = None,
    metadata: Mapping[str, str] | None = None,
) -> HashedFile:
    """Write a new file. Device memory comes over one tensor at a time; strided layouts become contiguous.

    Errors: NotStorable, OSError (of the disk).
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)
            raise NotStorable(f"a tensor of {kind} cannot be stored", where=name)
    # Wide types first, so that every tensor is aligned to its own width.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    with hashed_file(path, hasher) as file:
        file.write(_header(names, tensors, metadata or {}))
        for name in names:
            file.write(as_bytes(tensors[name]))
    return file


def _header(names: list[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def as_bytes(tensor: Tensor) -> memoryview:
    """The values in row-major order; of a contiguous tensor on the host a view, not a copy."""
    if tensor.numel() == 0:
        return memoryview(b"")
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Of the data alone."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
