"""Two real processes on gloo: they compute what one computes, stop together, and hand over their state.

One launch does it all (`two_ranks.py`), since starting processes is what costs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from distributed.small_job import PRUNED, SPLIT, train, weights

from torchstone.tracking.checkpoint import CheckpointDamaged, open_checkpoint

STRATEGIES = ("ddp", "fsdp")
TOLERANCE = 1e-5
STEPS = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    reference = train(folder / "one")
    (folder / "one.json").write_text(json.dumps(reference))
    # In the middle of the second epoch, for two ranks to go on.
    stopped = train(folder / "one-stopped", interrupt=3)
    assert (stopped["status"], stopped["num_steps"]) == ("interrupted", 3)
    for strategy in STRATEGIES:
        shutil.copytree(folder / "one-stopped", folder / f"one-stopped-for-{strategy}")
    script = Path(__file__).with_name("two_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    environ = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    job = subprocess.Popen(
        [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), str(folder)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = job.communicate(timeout=110)
    except subprocess.TimeoutExpired:
        for each in psutil.Process(job.pid).children(recursive=True):  # ranks lead sessions of their own
            each.kill()
        job.kill()
        job.communicate()
        raise
    assert job.returncode == 0, said[-3000:]
    return folder


@pytest.fixture(scope="module")
def told(home: Path) -> list[dict[str, Any]]:
    """By rank."""
    return [json.loads((home / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(home: Path) -> dict[str, Any]:
    return json.loads((home / "one.json").read_text())


def close(left: Any, right: Any) -> None:
    torch.testing.assert_close(
        torch.tensor(left, dtype=torch.float64),
        torch.tensor(right, dtype=torch.float64),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_norms_and_validation_are_those_of_one_process(
    strategy: str, told: list[dict[str, Any]], one: dict[str, Any]
) -> None:
    two = told[0][strategy]
    assert list(two["steps"]) == [str(step) for step in range(1, STEPS + 1)]
    close(list(two["steps"].values()), list(one["steps"].values()))
    close(two["val"], one["val"])
    assert two["tokens"] == one["tokens"]
    assert max(norm for _, norm in one["steps"].values()) > 0.05, "the clip must be active to be tested"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_at_the_end_are_those_of_one_process_in_one_file(strategy: str, home: Path) -> None:
    checkpoint = open_checkpoint(home / strategy / "checkpoints" / f"step-{STEPS}")
    assert not checkpoint.is_split
    expected = weights(home / "one", STEPS)
    torch.testing.assert_close(checkpoint.tensors(), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert checkpoint.manifest["tied"] == open_checkpoint(home / "one/checkpoints/step-6").manifest["tied"]


@pytest.mark.parametrize("name", PRUNED)
def test_spikes_and_masks_are_those_of_one_process(name: str, home: Path) -> None:
    train(home / f"one-{name}", **PRUNED[name])
    expected = weights(home / f"one-{name}", STEPS)
    together = weights(home / name, STEPS)
    # Muon rounds to bfloat16 on its way.
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if name == "mixing" else {"rtol": TOLERANCE, "atol": TOLERANCE}
    torch.testing.assert_close(together, expected, **tolerance)
    mixed = [each for key, each in expected.items() if key.endswith("mix.weight")]
    assert sum(int((each == 0).sum()) for each in mixed) == 49
    for key, each in expected.items():
        assert torch.equal(each == 0, together[key] == 0), key


@pytest.mark.parametrize("name", SPLIT)
def test_optimizers_whose_state_is_split_give_the_same_weights(name: str, home: Path) -> None:
    train(home / f"one-{name}", optimizer=name)
    expected, together = weights(home / f"one-{name}", STEPS), weights(home / f"fsdp-{name}", STEPS)
    torch.testing.assert_close(together, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_to_one_rank_stops_both_at_the_same_step(
    strategy: str, told: list[dict[str, Any]], home: Path
) -> None:
    for rank in (0, 1):
        ended = told[rank][f"{strategy}-stopped"]
        assert (ended["status"], ended["exit_code"], ended["num_steps"]) == ("interrupted", 75, 3)
    assert (home / f"{strategy}-stopped" / "latest").read_text() == "step-3\n"


def test_only_the_slices_are_written_while_a_split_model_trains(home: Path) -> None:
    folder = home / "fsdp-stopped/checkpoints/step-3"
    checkpoint = open_checkpoint(folder)
    shards = [name for name in checkpoint.manifest["files"] if name.startswith("shards/")]
    assert checkpoint.is_split and len(shards) == 2
    assert not list(folder.rglob("*.pt")) + list(folder.rglob("*.metadata"))
    whole = sum(each.nbytes for name, each in checkpoint.tensors().items() if name != "head.weight")
    assert (folder / "model.safetensors").stat().st_size < whole / 2


def test_damage_to_a_slice_is_found(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "fsdp-stopped/checkpoints/step-3", tmp_path / "step-3")
    shard = sorted((tmp_path / "step-3/shards").iterdir())[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointDamaged, match="cannot be used"):
        open_checkpoint(tmp_path / "step-3")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_two_ranks_goes_on_in_one_process(
    strategy: str, home: Path, told: list[dict[str, Any]], one: dict[str, Any]
) -> None:
    rest = train(home / f"{strategy}-stopped", resume="auto")
    assert (rest["status"], list(rest["steps"])) == ("completed", [4, 5, 6])
    close(list(rest["steps"].values()), list(one["steps"].values())[3:])
    close(rest["val"], one["val"])
    torch.testing.assert_close(
        weights(home / f"{strategy}-stopped", STEPS),
        weights(home / "one", STEPS),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_one_process_goes_on_in_two_ranks(
    strategy: str, home: Path, told: list[dict[str, Any]], one: dict[str, Any]
) -> None:
    rest = told[0][f"{strategy}-from-one"]
    assert (rest["status"], list(rest["steps"])) == ("completed", ["4", "5", "6"])
    close(list(rest["steps"].values()), list(one["steps"].values())[3:])
    torch.testing.assert_close(
        weights(home / f"one-stopped-for-{strategy}", STEPS),
        weights(home / "one", STEPS),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_dropout_two_ranks_resume_bit_for_bit(
    strategy: str, home: Path, told: list[dict[str, Any]]
) -> None:
    through, again = told[0][f"{strategy}-noisy"], told[0][f"{strategy}-noisy-again"]
    assert list(again["steps"]) == ["4", "5", "6"]
    assert list(again["steps"].values()) == list(through["steps"].values())[3:]
    left, right = weights(home / f"{strategy}-noisy", STEPS), weights(home / f"{strategy}-noisy-again", STEPS)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_each_rank_draws_its_own_dropout(home: Path) -> None:
    checkpoint = open_checkpoint(home / "ddp-noisy/checkpoints/step-6")
    first, second = checkpoint.state()["rng_of_ranks"]
    assert not torch.equal(first["torch"], second["torch"])


def test_only_rank_0_writes(home: Path, told: list[dict[str, Any]]) -> None:
    from torchstone.tracking.store import Store, default_store

    with Store.open(default_store(home / "ddp")) as store:
        rows = store.metrics(json.loads((home / "ddp/run.json").read_text())["run_id"], "train/loss")
    assert [row.step for row in rows] == list(range(1, STEPS + 1))
    assert told[1]["ddp"]["steps"] == {}, "hooks belong to rank 0"
    assert not list((home / "ddp").glob("checkpoints/.*"))
