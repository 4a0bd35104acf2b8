"""State without pickles comes back bit for bit, with its types; what cannot be kept is named by its path."""

from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from torchstone._files import sha256
from torchstone.tracking.state_file import pack, unpack
from torchstone.tracking.tensor_file import DTYPES, NotStorable, as_bytes, write_tensors

KINDS = [*DTYPES, torch.complex128]


def bits(tensor: Tensor) -> bytes:
    return bytes(as_bytes(tensor))


def same(first: Any, second: Any) -> bool:
    """Equal in type and every bit, order of keys included."""
    if isinstance(first, Tensor):
        return (
            isinstance(second, Tensor)
            and (first.dtype, first.shape) == (second.dtype, second.shape)
            and bits(first) == bits(second)
        )
    if type(first) is not type(second):
        return False
    if isinstance(first, float):
        return struct.pack(">d", first) == struct.pack(">d", second)
    if isinstance(first, dict):
        return len(first) == len(second) and all(
            same(mine, theirs) for mine, theirs in zip(first.items(), second.items(), strict=True)
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def through_files(value: Any, folder: Path) -> Any:
    structure, tensors = pack(value)
    path = folder / "state.safetensors"
    path.unlink(missing_ok=True)
    write_tensors(path, tensors)
    return unpack(json.loads(json.dumps(structure, allow_nan=False)), load_file(path))


@st.composite
def tensor_values(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(KINDS))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    raw = draw(st.binary(min_size=count, max_size=count))
    if dtype == torch.bool:
        raw = bytes(each & 1 for each in raw)
    flat = torch.tensor(list(raw), dtype=torch.uint8).view(dtype)
    value = flat.reshape(shape)
    if value.dim() >= 2 and draw(st.booleans()):
        value = value.transpose(0, 1)
    return value


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**5000), 2**5000),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(st.characters(exclude_categories=())),
    st.binary(max_size=9),
    tensor_values(),
)
KEYS = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["$tensor", "$tuple", "$", "__metadata__", "1"]),
    st.integers(),
    st.booleans(),
    st.none(),
    st.tuples(st.integers(), st.text(max_size=2)),
)
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=STATES)
def test_round_trip_is_the_identity(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert same(value, through_files(value, tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_every_number_format(dtype: torch.dtype, tmp_path: Path) -> None:
    value = {"a": torch.arange(6).to(dtype).reshape(2, 3), "b": torch.tensor(1).to(dtype)}
    assert same(value, through_files(value, tmp_path))


def test_not_a_number_keeps_its_bits(tmp_path: Path) -> None:
    payload = struct.unpack(">d", bytes.fromhex("7ff80000deadbeef"))[0]
    value = [payload, -math.inf, -0.0, 5e-324]
    assert same(value, through_files(value, tmp_path))


def test_layout_of_dense_tensors_stays(tmp_path: Path) -> None:
    wide = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    back = through_files({"m": wide}, tmp_path)["m"]
    assert (back.stride(), torch.equal(back, wide)) == (wide.stride(), True)


def test_conjugate_and_overlapping_views(tmp_path: Path) -> None:
    z = torch.randn(3, dtype=torch.complex64)
    row = torch.arange(4.0)
    value = {"conj": z.conj(), "imag": z.conj().imag, "wide": row.expand(3, 4), "every": row[::2]}
    assert same(value, through_files(value, tmp_path))


def test_shared_memory_is_kept_once(tmp_path: Path) -> None:
    weight = torch.randn(4)
    structure, tensors = pack({"a": weight, "b": weight, "c": weight.detach()})
    assert list(tensors) == ["a"]
    back = unpack(structure, tensors)
    assert back["a"] is back["b"]


class Strange:
    pass


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"optimizer": {"state": {0: {"m": Strange()}}}}, "optimizer.state.0.m"),
        ({"a": [1, {2, 3}]}, "a.1"),
        ({"a": torch.eye(2).to_sparse()}, "a"),
        ({Strange(): 1}, "key"),
        (torch.float32, "state"),
        ({"a": torch.empty(2, device="meta")}, "a"),
        ({"n": 1j}, "n"),
    ],
)
def test_what_cannot_be_stored_is_named(value: Any, path: str) -> None:
    with pytest.raises(NotStorable) as caught:
        pack(value)
    assert caught.value.where.endswith(path)


def test_a_state_that_holds_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotStorable, match="holds itself"):
        pack(value)


def test_ordered_dictionaries_become_plain(tmp_path: Path) -> None:
    assert same({"b": 1, "a": 2}, through_files(OrderedDict(b=1, a=2), tmp_path))


@pytest.mark.parametrize("aside", [False, True])
def test_the_hash_is_that_of_the_file(aside: bool, tmp_path: Path) -> None:
    # Above and below the sizes at which pieces are gathered or cut.
    tensors = {f"t{n}": torch.randn(n) for n in (1, 3, 1000, 300_000, 5_000_000)}
    tensors["bytes"] = torch.arange(7, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as hasher:
        file = write_tensors(tmp_path / "t.safetensors", tensors, hasher if aside else None)
        assert file.sha256() == sha256(tmp_path / "t.safetensors")
    assert file.num_bytes == (tmp_path / "t.safetensors").stat().st_size
    back = load_file(tmp_path / "t.safetensors")
    assert all(same(tensors[name], back[name]) for name in tensors)
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "t.safetensors", tensors)
