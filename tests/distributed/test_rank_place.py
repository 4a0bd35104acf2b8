"""The environments of torchrun and SLURM are read as they are, and nothing else is taken for them."""

from __future__ import annotations

import pytest

from torchstone._errors import EnvironmentProblem
from torchstone.train.rank_place import first_host, rank_place

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "host-a",
    "MASTER_PORT": "29400",
}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "123456",
    "SLURM_NODELIST": "gpu[03-05,9],cpu1",
}


def test_torchrun() -> None:
    place = rank_place(TORCHRUN)
    assert place is not None
    assert (place.rank, place.world, place.local_rank, place.main) == (3, 4, 1, False)
    assert place.variables == TORCHRUN


def test_slurm_names_the_first_node_and_a_port_of_the_job() -> None:
    place = rank_place(SLURM)
    assert place is not None and place.starter == "SLURM"
    assert (place.rank, place.world, place.local_rank, place.address) == (5, 8, 1, "gpu03")
    assert place.port == rank_place(SLURM | {"SLURM_PROCID": "0"}).port != 0  # type: ignore[union-attr]
    assert place.port != rank_place(SLURM | {"SLURM_JOB_ID": "123457"}).port  # type: ignore[union-attr]


def test_a_step_may_have_fewer_tasks_and_nodes_than_its_job() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "gpu04"}
    place = rank_place(SLURM | step | {"SLURM_PROCID": "1"})
    assert place is not None and (place.world, place.address) == (2, "gpu04")


def test_who_sets_the_address_is_obeyed() -> None:
    place = rank_place(SLURM | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4711"})
    assert place is not None and (place.address, place.port) == ("10.0.0.7", 4711)


def test_torchrun_under_srun_is_torchrun() -> None:
    place = rank_place(SLURM | TORCHRUN)
    assert place is not None and (place.starter, place.rank) == ("torchrun", 3)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"},  # salloc: a shell, no task
        SLURM | {"SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"},  # the shell of a batch script
        SLURM | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},  # one task is no group
    ],
)
def test_not_one_of_several(environ: dict[str, str]) -> None:
    assert rank_place(environ) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("localhost", "localhost"),
        ("a1,a2", "a1"),
        ("gpu[07,09-12]", "gpu07"),
        ("rack[1-2]node[03-04],x", "rack1node03"),
        ("gpu[1-2]-ib", "gpu1-ib"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    "change", [{"RANK": "4"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}, {"MASTER_PORT": "x"}]
)
def test_nonsense_is_refused_by_name(change: dict[str, str]) -> None:
    with pytest.raises(EnvironmentProblem, match=r"rank|is no number") as refused:
        rank_place(TORCHRUN | change)
    assert refused.value.exit_code == 5
