"""Who gets which GPU, on states of devices that were written down; no GPU is here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone._errors import UsageError
from torchstone.study.slots import GIB, Gpu, Wait, place_on, place_on_host, read_gpus, visible

# As NVML tells of a node with four A10G, one of them taken by somebody else, and of a mixed workstation.
FARM = [
    Gpu(uuid=f"GPU-{mark}0e1", name="NVIDIA A10G", total_bytes=24_146_608_128, free_bytes=free)
    for mark, free in zip(
        "abcd", (23_798_743_040, 23_798_743_040, 1_205_862_400, 23_798_743_040), strict=True
    )
]
MIXED = [
    Gpu(uuid="GPU-77", name="NVIDIA RTX 2000 Ada", total_bytes=16 * GIB, free_bytes=15 * GIB),
    Gpu(uuid="GPU-88", name="NVIDIA H100 80GB HBM3", total_bytes=80 * GIB, free_bytes=79 * GIB),
]


def names(gpus: list[Gpu]) -> list[str]:
    return [each.uuid for each in gpus]


def test_each_cell_gets_a_gpu_of_its_own_and_the_rest_wait() -> None:
    held: list[tuple[str, int]] = []
    for _ in range(3):
        found = place_on(FARM, held, 8 * GIB)
        assert isinstance(found, Gpu)
        held.append((found.uuid, 8 * GIB))
    assert names(FARM)[2] not in dict(held), "the one that somebody else has filled"
    assert len(dict(held)) == 3
    assert place_on(FARM, held, 8 * GIB) == Wait("it needs 8.0 GiB, and NVIDIA A10G has 1.1 GiB left")
    small = place_on(FARM, held, GIB)
    assert isinstance(small, Gpu) and small.uuid == names(FARM)[2]


def test_memory_that_a_new_cell_has_not_taken_yet_is_no_longer_free() -> None:
    assert place_on(MIXED, [("GPU-88", 60 * GIB)], 30 * GIB, each=2) == Wait(
        "it needs 30.0 GiB, and NVIDIA H100 80GB HBM3 has 20.0 GiB left"
    )
    found = place_on(MIXED, [("GPU-88", 60 * GIB)], 10 * GIB, each=2)
    assert isinstance(found, Gpu) and found.uuid == "GPU-77", "the one with fewer cells"


def test_what_fits_nowhere_is_tried_alone_where_there_is_most() -> None:
    found = place_on(MIXED, [], 100 * GIB)
    assert isinstance(found, Gpu) and found.uuid == "GPU-88"
    assert isinstance(place_on(MIXED, [("GPU-88", GIB), ("GPU-77", GIB)], 100 * GIB, each=2), Wait)


def test_the_host_tries_the_first_and_lets_others_wait() -> None:
    assert place_on_host(GIB, 0, 2 * GIB) is None
    assert place_on_host(4 * GIB, 1, 2 * GIB) is None
    assert isinstance(place_on_host(GIB, 1, 2 * GIB), Wait)


sizes = st.integers(0, 90).map(lambda count: count * GIB)
farms = st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4).map(
    lambda pairs: [
        Gpu(uuid=f"GPU-{n}", name="x", total_bytes=max(pair), free_bytes=min(pair))
        for n, pair in enumerate(pairs)
    ]
)


@given(farms, st.lists(st.tuples(st.integers(0, 3), sizes), max_size=8), sizes, st.integers(1, 3))
def test_nobody_is_placed_without_room_and_nobody_waits_beside_it(gpus, held, need, each) -> None:
    taken = [(f"GPU-{number}", count) for number, count in held]
    found = place_on(gpus, taken, need, each)

    def has_room(gpu: Gpu) -> bool:
        mine = [count for uuid, count in taken if uuid == gpu.uuid]
        return len(mine) < each and need < min(gpu.free_bytes, gpu.total_bytes - sum(mine))

    hopeless = all(need > gpu.total_bytes for gpu in gpus)
    if isinstance(found, Wait):
        assert not any(map(has_room, gpus))
    else:
        assert has_room(found) or (hopeless and found.uuid not in dict(taken))


def test_only_what_the_user_left_visible_is_used() -> None:
    assert names(visible(FARM, None)) == names(FARM)
    assert names(visible(FARM, "2, 0")) == ["GPU-c0e1", "GPU-a0e1"]
    assert names(visible(FARM, "1,-1,2")) == ["GPU-b0e1"]
    assert names(visible(FARM, "GPU-d")) == ["GPU-d0e1"]
    assert visible(FARM, "") == []
    with pytest.raises(UsageError, match=r"names 'GPU-', which is 4 of the GPUs"):
        visible(FARM, "GPU-")


def test_a_machine_without_the_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml", reason="pip install 'torchstone[gpu]'")

    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert read_gpus() == []


def test_devices_are_read_as_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml", reason="pip install 'torchstone[gpu]'")
    told = {
        "nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "nvmlDeviceGetCount": lambda: len(FARM),
        "nvmlDeviceGetHandleByIndex": lambda number: FARM[number],
        "nvmlDeviceGetUUID": lambda gpu: gpu.uuid.encode(), "nvmlDeviceGetName": lambda gpu: gpu.name,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=gpu.total_bytes, free=gpu.free_bytes),
    }  # fmt: skip
    for name, answer in told.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert read_gpus() == FARM
