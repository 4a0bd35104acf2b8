"""Bad input is one clear error: its type, its exit code, what it names, and a run folder that is intact.

Intact means: the folder was never made, or what is in it can be resumed and nothing half-written lies there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import torchstone as ts
from torchstone._errors import ConfigError, DataError, ModelError, TorchstoneError, UsageError
from torchstone._files import read_json
from torchstone.cli.main import run as command
from torchstone.tracking.checkpoint import newest_good
from torchstone.train.result import Stopped

V, LIMIT = 19, 16


class Model(nn.Module):
    """A language model with a table of positions, so that it has a limit."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.config = {"vocab_size": V, "max_position_embeddings": LIMIT}
        self.embed = nn.Embedding(V, width)
        self.place = nn.Embedding(LIMIT, width)
        self.head = nn.Linear(width, V)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.head(self.embed(input_ids).cumsum(1) + self.place(places))


class Pixels(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3 * 4 * 4, 4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values.flatten(1))


class Rows(Dataset[Any]):
    """Rows by index; `break_at` does something worse than to give one."""

    def __init__(self, rows: list[Any], break_at: int = -1, how: Callable[[], Any] = lambda: None) -> None:
        self.rows, self.break_at, self.how = rows, break_at, how

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        if index == self.break_at:
            self.how()
        return self.rows[index]


def fail() -> None:
    raise ValueError("disc read error")


def die() -> None:
    os._exit(1)


def ids(number: int = 12, length: int = 8) -> list[Tensor]:
    return [(torch.arange(length) + row) % V for row in range(number)]


def images(number: int = 8) -> list[tuple[Tensor, int]]:
    return [(torch.full((3, 4, 4), row / 8), row % 4) for row in range(number)]


def with_nan() -> list[tuple[Tensor, int]]:
    rows = images()
    rows[5][0][1, 2, 3] = torch.nan
    return rows


def endless() -> Iterator[Tensor]:
    yield from ids(3)
    raise RuntimeError("connection lost")


def bad_image(folder: Path) -> list[tuple[Path, int]]:
    image = pytest.importorskip("PIL.Image", reason="needs the extra [vision]")
    for number in range(4):
        image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"\x89PNG cut")
    return [(folder / f"{number}.png", number % 4) for number in range(4)]


LM, IMAGES = "causal-lm", ts.TaskSpec.vision(4, image_size=4)
NO_TARGETS = [{"input_ids": row, "labels": torch.full_like(row, -100)} for row in ids()]


@dataclass(frozen=True)
class Case:
    """`data` is called with a folder of its own; `words` are in the error, whatever the part."""

    data: Callable[[Path], Any]
    words: tuple[str, ...]
    error: type[TorchstoneError] = DataError
    exit_code: int = 4
    task: Any = LM
    begun: bool = False
    """Whether the fault can only be found while the run is on its way."""
    config: dict[str, Any] | None = None


CASES = {
    "empty": Case(lambda _: [], ("no examples", "empty")),
    "one token": Case(lambda _: [torch.tensor([3])] * 4, ("too short for causal-lm", "example 0")),
    "one token of a stream": Case(lambda _: np.array([3], np.uint16), ("1 tokens", "more text")),
    "longer than the limit": Case(
        lambda _: [*ids(3), torch.zeros(LIMIT + 1, dtype=torch.long)],
        ("17 tokens is longer", "example 3", "limit is 16"),
    ),
    "longer, in a DataLoader": Case(
        lambda _: DataLoader(Rows(ids(4, LIMIT + 2)), batch_size=2),
        ("18 tokens is longer", "batch 0", "limit is 16"),
        begun=True,
    ),
    "id beyond the vocabulary": Case(
        lambda _: [*ids(3), torch.tensor([1, V])], ("token id 19", "example 3", "0 to 18")
    ),
    "negative id": Case(lambda _: [*ids(3), torch.tensor([1, -1])], ("token id -1", "example 3")),
    "id beyond, in a DataLoader": Case(
        lambda _: DataLoader(Rows([*ids(5), torch.full((8,), V)]), batch_size=2),
        ("token id 19", "batch 2, row 1"),
        begun=True,
    ),
    "label beyond the classes": Case(
        lambda _: [*images(3), (torch.zeros(3, 4, 4), 4)],
        ("value 4 is outside", "example 3", "0 to 3"),
        task=IMAGES,
    ),
    "fewer classes than the data": Case(
        lambda _: images(),
        ("no logits", "(4, 4)", "9 classes"),
        ModelError,
        1,
        task=ts.TaskSpec(kind="vision", num_classes=9),
        begun=True,
    ),
    "nothing counts": Case(lambda _: NO_TARGETS, ("nothing to learn from", "no label counts"), begun=True),
    "no labels": Case(lambda _: [row for row, _ in images()], ("no labels",), task=IMAGES),
    "ragged": Case(
        lambda _: [*images(3), (torch.zeros(3, 4, 5), 0)],
        ("unequal shapes", "(3, 4, 5)", "collator"),
        task=IMAGES,
    ),
    "ragged, in a DataLoader": Case(
        lambda _: DataLoader(Rows([*ids(3), *ids(1, 5)]), batch_size=2),
        ("failed at batch 1", "collate_fn"),
        begun=True,
    ),
    "other fields": Case(
        lambda _: [{"input_ids": ids()[0]}, {"input_ids": ids()[0], "attention_mask": torch.ones(8)}] * 2,
        ("has the fields", "attention_mask"),
    ),
    "NaN": Case(lambda _: with_nan(), ("pixel_values holds nan", "example 5"), task=IMAGES, begun=True),
    "unreadable image": Case(
        bad_image, ("cannot be read", "example 2", "2.png"), task=ts.TaskSpec.vision(4, image_size=4)
    ),
    "a generator that raises": Case(lambda _: endless(), ("example 3", "connection lost")),
    "a dataset that raises": Case(
        lambda _: Rows(ids(), 10, fail), ("example 10", "disc read error"), begun=True
    ),
    "a dataset that raises at once": Case(lambda _: Rows(ids(4), 2, fail), ("example 2", "disc read error")),
    "a DataLoader that raises": Case(
        lambda _: DataLoader(Rows(ids(), 7, fail), batch_size=4),
        ("failed at batch 1", "disc read error"),
        begun=True,
    ),
    "a worker that raises": Case(
        lambda _: DataLoader(Rows(ids(), 7, fail), batch_size=4, num_workers=1),
        ("failed at batch 1", "disc read error"),
        begun=True,
    ),
    "a worker that dies": Case(
        lambda _: DataLoader(Rows(ids(), 7, die), batch_size=4, num_workers=1),
        ("a worker of the DataLoader died", "num_workers=0"),
        begun=True,
    ),
    "a text for a dataset": Case(lambda _: b"some text", ("text is no dataset",)),
    "no such source": Case(lambda folder: str(folder / "absent.txt"), ("no such file",)),
    "an empty source": Case(lambda folder: _written(folder / "a.txt", ""), ("no text to read",)),
    "a key without effect": Case(
        lambda _: ids(),
        ("early_stopping_patience", "no effect"),
        ConfigError,
        2,
        config={"early_stopping_patience": 3},
    ),
    "a key of another schedule": Case(
        lambda _: ids(),
        ("decay_ratio", "no effect"),
        ConfigError,
        2,
        config={"decay_ratio": 0.5},
    ),
}


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def settings(folder: Path, **changes: Any) -> ts.TrainingConfig:
    values = {"learning_rate": 0.02, "epochs": 1, "checkpoint_dir": str(folder / "run"), "dashboard": False}
    return ts.TrainingConfig(**{**values, "checkpoint_every": 1, **changes})


def trained(folder: Path, case: Case, **how: Any) -> Any:
    torch.manual_seed(0)
    model = Model() if case.task == LM else Pixels()
    config = settings(folder, **(case.config or {}))
    (folder / "data").mkdir(exist_ok=True)
    return ts.Trainer(model, config, task=case.task, device="cpu").train(case.data(folder / "data"), **how)


@pytest.mark.parametrize("name", list(CASES))
def test_from_python(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    with pytest.raises(TorchstoneError) as caught:
        trained(tmp_path, case)
    error = caught.value
    assert type(error) is case.error and error.exit_code == case.exit_code
    told = f"{error.what} {error.where} {error.why} {error.next}"
    assert [word for word in case.words if word not in told] == [], told
    assert len(error.what.splitlines()) <= 2 and "Traceback" not in told
    assert_intact(tmp_path / "run", begun=case.begun)


def assert_intact(run: Path, *, begun: bool) -> None:
    assert run.exists() == begun
    if not begun:
        return
    assert read_json(run / "run.json")["status"] == "failed"
    assert read_json(run / "config.json")["values"]
    assert not [path for path in run.rglob("*") if ".partial" in path.name or path.name.endswith(".tmp")]
    steps = sorted((run / "checkpoints").glob("step-*")) if (run / "checkpoints").is_dir() else []
    found = newest_good(run / "checkpoints", move_bad=False) if steps else None
    assert (found is not None) == bool(steps)
    if found is not None:
        assert (run / "latest").read_text().strip() == f"step-{found.step}"


def test_a_run_that_broke_on_its_data_goes_on_with_the_repaired_data(tmp_path: Path) -> None:
    case = CASES["a dataset that raises"]
    with pytest.raises(DataError):
        trained(tmp_path, case)
    repaired = Case(lambda _: Rows(ids()), ())
    result = trained(tmp_path, repaired, resume="auto")
    straight = trained(tmp_path / "straight", repaired) if (tmp_path / "straight").mkdir() is None else None
    assert result.status == "completed" and straight is not None
    assert result.final == straight.final
    assert result["loss_history"] == straight["loss_history"]


def test_another_architecture_is_named_by_its_first_tensors(tmp_path: Path) -> None:
    class Stop:
        def on_step(self, info: Any) -> None:
            if info.step == 2:
                os.kill(os.getpid(), 15)

    first = ts.Trainer(Model(), settings(tmp_path), task=LM, device="cpu", hooks=Stop())
    with pytest.raises(Stopped):
        first.train(ids())
    with pytest.raises(ModelError) as caught:
        ts.Trainer(Model(width=10), settings(tmp_path), task=LM, device="cpu").train(ids(), resume="auto")
    assert caught.value.exit_code == 1
    assert "embed.weight has shape (19, 10), in the checkpoint (19, 8)" in caught.value.why
    result = ts.Trainer(Model(), settings(tmp_path), task=LM, device="cpu").train(ids(), resume="auto")
    assert result.status == "completed"  # nothing was touched by the refusal


def test_more_classes_than_the_model_tells_apart(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers", reason="needs the extra [hf]")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = hf.ViTForImageClassification(hf.ViTConfig(image_size=4, patch_size=2, num_labels=4, **sizes))
    task = ts.TaskSpec.vision(10, image_size=4)
    with pytest.raises(UsageError, match="10 classes and the model tells 4 apart") as caught:
        ts.Trainer(model, settings(tmp_path), task=task, device="cpu").train(images())
    assert caught.value.exit_code == 2 and not (tmp_path / "run").exists()


# --- the command line ---------------------------------------------------------------------------

SMALL = ["model.vocab_size=300", "model.d_model=16", "model.num_layers=1", "model.num_heads=2"]
SMALL += ["data.tokenizer=bytes", "data.sequence_length=16", "train.max_steps=2", "tracking.dashboard=n"]


def tokens(path: Path, values: Any) -> str:
    np.save(path, np.array(values))
    return str(path)


COMMANDS: dict[str, tuple[Callable[[Path], str], list[str], str, int, str]] = {
    "empty file": (lambda f: _written(f / "a.txt", ""), [], "DataError", 4, "no text to read"),
    "no text": (lambda f: _written(f / "a.txt", "\udcff".encode("utf-8", "surrogatepass").decode("latin-1")),
                ["data.tokenizer=absent.json"], "DataError", 4, "no tokenizer"),
    "a table": (lambda f: _written(f / "a.csv", "a,b\n"), [], "DataError", 4, "which column is the text"),
    "absent": (lambda f: str(f / "absent.txt"), [], "DataError", 4, "no such file"),
    "ids beyond": (lambda f: tokens(f / "a.npy", [5] * 40 + [300] * 40),
                   ["data.tokenizer=@default"], "DataError", 4, "token id 300 is outside"),
    "no ids": (lambda f: tokens(f / "a.npy", [0.5] * 9),
               ["data.tokenizer=@default"], "DataError", 4, "no stream of token ids"),
    "too long": (lambda f: _written(f / "a.txt", "text " * 99),
                 ["data.sequence_length=9999"], "ConfigError", 2, "more than the model takes"),
    "unknown key": (lambda f: _written(f / "a.txt", "text " * 99),
                    ["train.batch_sizes=2"], "ConfigError", 2, "train.batch_size"),
    "no effect": (lambda f: _written(f / "a.txt", "text " * 99),
                  ["optim.decay_ratio=0.5"], "ConfigError", 2, "optim.schedule"),
    "no effect on text": (lambda f: _written(f / "a.txt", "text " * 99),
                          ["data.token_dtype=uint32"], "ConfigError", 2, "no effect"),
    "impossible": (lambda f: _written(f / "a.txt", "text " * 99),
                   ["optim.schedule=cosinus"], "ConfigError", 2, "cosine"),
    "another task": (lambda f: _written(f / "a.txt", "text " * 99),
                     ["data.task=vision"], "DataError", 4, "holds no images"),
}  # fmt: skip


@pytest.fixture
def in_process() -> Iterator[None]:
    """The command sets up logging for its process, which here is ours."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", list(COMMANDS))
def test_from_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, extra, error, exit_code, words = COMMANDS[name]
    pairs = [each for value in [*SMALL, *extra] for each in ("--set", value)]
    line = ["train", "zoo:gpt-nano", "--data", source(tmp_path), "--run-dir", str(tmp_path / "run"), *pairs]
    assert command([*line, "--json"]) == exit_code
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["error"]) == ("torchstone.error/1", error)
    whole = f"{told['what']} {told['where']} {told['why']} {told['next']}"
    assert any(each in whole for each in words.split("|")), whole
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in capsys.readouterr().err
