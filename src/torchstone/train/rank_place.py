"""Which of how many processes this one is, as torchrun or SLURM tells it. No torch here.

place = rank_place(os.environ)        # None: nobody started this process as one of several
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torchstone._errors import EnvironmentProblem

LOWEST_PORT, NUM_PORTS = 12_000, 20_000
"""Ports that a SLURM job's number is mapped to, so that two jobs on a node seldom meet."""


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """The place of one process in a group."""

    rank: int
    world: int
    local_rank: int
    """Among the processes of this machine: the index of its GPU."""
    address: str
    port: int
    starter: str
    """torchrun or SLURM."""

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def variables(self) -> dict[str, str]:
        """The names under which torch.distributed looks for this."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def rank_place(environ: Mapping[str, str]) -> RankPlace | None:
    """torchrun's variables before SLURM's: whoever starts torchrun under srun means torchrun's."""
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _of_torchrun(environ)
    if _is_slurm_task(environ):
        return _of_slurm(environ)
    return None


def _of_torchrun(environ: Mapping[str, str]) -> RankPlace:
    return _checked(
        RankPlace(
            rank=_number(environ, "RANK"),
            world=_number(environ, "WORLD_SIZE"),
            local_rank=_number(environ, "LOCAL_RANK" if "LOCAL_RANK" in environ else "RANK"),
            address=environ.get("MASTER_ADDR", "127.0.0.1"),
            port=_number(environ, "MASTER_PORT") if "MASTER_PORT" in environ else LOWEST_PORT,
            starter="torchrun",
        )
    )


def _is_slurm_task(environ: Mapping[str, str]) -> bool:
    """Several tasks, and this process is one. The shell of a batch script looks like task 0 but is none."""
    if not {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"} <= environ.keys():
        return False
    in_batch_shell = environ.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environ
    return not in_batch_shell and _slurm_world(environ) > 1


def _of_slurm(environ: Mapping[str, str]) -> RankPlace:
    nodes = (
        environ.get("SLURM_STEP_NODELIST")
        or environ.get("SLURM_NODELIST")
        or environ.get("SLURM_JOB_NODELIST")
    )
    address = environ.get("MASTER_ADDR") or (first_host(nodes) if nodes else "127.0.0.1")
    if "MASTER_PORT" in environ:
        port = _number(environ, "MASTER_PORT")
    else:
        port = (
            LOWEST_PORT + (_number(environ, "SLURM_JOB_ID") if "SLURM_JOB_ID" in environ else 0) % NUM_PORTS
        )
    return _checked(
        RankPlace(
            rank=_number(environ, "SLURM_PROCID"),
            world=_slurm_world(environ),
            local_rank=_number(environ, "SLURM_LOCALID"),
            address=address,
            port=port,
            starter="SLURM",
        )
    )


def _slurm_world(environ: Mapping[str, str]) -> int:
    # A step may have fewer tasks than its job.
    return _number(environ, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS")


def first_host(nodes: str) -> str:
    """The first name of a SLURM host list: `gpu[03-05,9],cpu1` -> `gpu03`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    if first is None:
        raise EnvironmentProblem(f"the host list {nodes!r} names no host", next="set MASTER_ADDR")
    return re.sub(r"\[([^\]]*)\]", lambda group: re.split("[-,]", group[1])[0], first[0])


def _checked(place: RankPlace) -> RankPlace:
    if not 0 <= place.rank < place.world:
        raise EnvironmentProblem(
            f"rank {place.rank} of {place.world} processes cannot be",
            where=f"environment variables of {place.starter}",
            next="unset them to train as a single process",
        )
    return place


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise EnvironmentProblem(
            f"{name}={environ[name]!r} is no number",
            where="environment variables",
            next="unset it to train as a single process",
        ) from None
