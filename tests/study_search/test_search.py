"""A search finds the optimum of a known function, survives every death, and refuses what it cannot search."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from faults.job import MODEL, write_text
from zoo.documented import schema
from zoo.tiny_decoder import Block, Healthy

from torchstone._errors import ConfigError, RunLocked, UsageError
from torchstone.cli.main import run as type_line
from torchstone.config.resolve import resolve
from torchstone.study.executor import LocalExecutor
from torchstone.study.hyperparameter_search import hyperparameter_search
from torchstone.study.search import How, SearchJob, SearchResult, run
from torchstone.study.search_pictures import write_pictures
from torchstone.study.space import read_space
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store
from torchstone.train.config import SECTIONS

pytest.importorskip("optuna", reason="needs the extra [tune]")

SEED = 4
"""Of a search in whose six trials one is pruned."""
Losses = Callable[[Mapping[str, Any]], list[float]]


def base(*changes: tuple[str, str]) -> Any:
    return resolve(SECTIONS, overrides=[("model.target", "zoo:gpt-nano"), *changes])


def job(trials: int = 12, *, space: tuple[str, ...] = (), **how: Any) -> SearchJob:
    varied = read_space(
        base(), assignments=space or ("optim.learning_rate=1e-5..1e-1:log", "optim.beta1=0.5..0.99")
    )
    return SearchJob(name="tiny", space=varied, trials=trials, **how)


def bowl(values: Mapping[str, Any]) -> list[float]:
    """Best at a rate of 1e-3 and beta1 of 0.9; four validations."""
    off = (math.log10(values["optim.learning_rate"]) + 3) ** 2 + 4 * (values["optim.beta1"] - 0.9) ** 2
    return [1 + off + left for left in (3, 2, 1, 0)]


class Made:
    """An executor whose runs are made up: rows in the store as a run would write them, and an outcome."""

    slots, shares_store = 1, True

    def __init__(
        self, losses: Losses, dies: Callable[[int], bool] = lambda start: False, slots: int = 1
    ) -> None:
        self.losses, self.dies, self.slots = losses, dies, slots
        self.started: list[str] = []
        self.stopped: list[str] = []

    def start(self, order: Mapping[str, Any]) -> Any:
        self.started.append(order["name"])
        return Ended(self, order)

    def close(self) -> None: ...


class Ended:
    def __init__(self, made: Made, order: Mapping[str, Any]) -> None:
        self.made, self.order = made, order
        values = {key: each["value"] for key, each in order["settings"]["values"].items()}
        path = Path(order["run_dir"])
        if made.dies(len(made.started)):
            self.told: Any = {"status": "died", "exit_code": 1, "result": None, "error": {"what": "killed"}}
            return
        try:
            losses = made.losses(values)
        except ValueError as bad:
            self.told = {"status": "failed", "exit_code": 1, "result": None, "error": {"what": str(bad)}}
            return
        folder = (
            RunFolder.open(path) if RunFolder.exists(path) else RunFolder.create(path, name=order["name"])
        )
        with Store.open(order["store"]) as store:
            store.start_run(folder.run_id, name=order["name"], kind="train", run_dir=path)
            store.log_rows(
                folder.run_id, [MetricRow("val/loss", 10 * n, loss) for n, loss in enumerate(losses, 1)]
            )
        self.told = {"status": "completed", "exit_code": 0, "result": {}, "error": None}

    def outcome(self) -> Any:
        return self.told

    def stop(self, number: Any) -> None:
        self.made.stopped.append(self.order["name"])


def _make_quick(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("TORCHSTONE_STORE", raising=False)
    patch.setattr("torchstone.study.search.LOOK_S", 0.0)
    patch.setattr("torchstone.study.search_pictures.write_pictures", lambda *_: [])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    _make_quick(monkeypatch)


def search(root: Path, made: Made, **changes: Any) -> SearchResult:
    return run(job(**changes), How(root=root, executor=made))


def params(found: SearchResult) -> list[Any]:
    return [(each["state"], each["params"]) for each in found.trials]


def test_the_known_optimum_is_approached_and_written_as_a_defconfig(tmp_path: Path) -> None:
    found = search(tmp_path / "s", Made(bowl), trials=14, pruner="none")
    assert found.exit_code == 0 and len(found.trials) == 14
    assert found.best_value is not None and found.best_value < 1.3
    assert found.best == min(found.trials, key=lambda each: each["value"])
    again = resolve(SECTIONS, defconfig=tmp_path / "s" / "best.defconfig")
    assert again.optim.learning_rate == found.best["params"]["optim.learning_rate"]
    assert set(found.importances) == {"optim.learning_rate", "optim.beta1"}
    assert sum(found.importances.values()) == pytest.approx(1)
    with Store.open(tmp_path / "s" / "store.db", readonly=True) as store:
        assert len(store.runs(kind="train")) == 14  # the same file holds runs and search


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """Six trials without any interruption."""
    with pytest.MonkeyPatch.context() as patch:
        _make_quick(patch)
        return search(tmp_path_factory.mktemp("whole") / "s", Made(bowl), trials=6, seed=SEED)


def test_a_search_that_was_cut_anywhere_proposes_what_a_whole_one_does(
    whole: SearchResult, tmp_path: Path
) -> None:
    for trials in (1, 5, 6):
        parts = search(tmp_path / "s", Made(bowl), trials=trials, seed=SEED)
    assert params(parts) == params(whole) and parts.best == whole.best | {"run_dir": parts.best["run_dir"]}
    nothing_new = Made(bowl)
    assert params(search(tmp_path / "s", nothing_new, trials=6, seed=SEED)) == params(whole)
    assert nothing_new.started == []


def test_what_does_not_promise_is_pruned_and_never_the_best(whole: SearchResult) -> None:
    pruned = [each for each in whole.trials if each["state"] == "pruned"]
    assert pruned and all(each["value"] is None and len(each["validations"]) < 4 for each in pruned)
    assert whole.best is not None and whole.best["state"] == "complete"


def test_a_trial_whose_process_dies_is_started_again_with_the_same_values(
    whole: SearchResult, tmp_path: Path
) -> None:
    dying = Made(bowl, dies=lambda start: start in (1, 3, 4))
    found = search(tmp_path / "s", dying, trials=3, seed=SEED)
    assert params(found) == params(whole)[:3]
    assert dying.started == [f"tiny-000{n}" for n in (0, 0, 1, 1, 1, 2)]


def test_a_trial_that_always_dies_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    found = search(tmp_path / "s", Made(bowl, dies=lambda start: start <= 3), trials=2)
    assert [each["state"] for each in found.trials] == ["fail", "complete"]
    assert "died 3 times" in found.trials[0]["error"] and found.exit_code == 0
    lost = search(tmp_path / "t", Made(bowl, dies=lambda start: True), trials=1)
    assert lost.exit_code == 1 and lost.best is None and not (tmp_path / "t" / "best.defconfig").exists()


def test_a_runner_that_dies_leaves_trials_that_the_next_one_takes_up(
    whole: SearchResult, tmp_path: Path
) -> None:
    class Killed(RuntimeError): ...

    def kill_second(start: int) -> bool:
        if start == 2:
            raise Killed
        return False

    with pytest.raises(Killed):
        search(tmp_path / "s", Made(bowl, dies=kill_second), trials=3, seed=SEED)
    found = search(tmp_path / "s", made := Made(bowl), trials=3, seed=SEED)
    assert params(found) == params(whole)[:3]
    assert made.started == ["tiny-0001", "tiny-0002"]


def test_failures_are_told_and_a_missing_metric_is_one(tmp_path: Path) -> None:
    def some(values: Mapping[str, Any]) -> list[float]:
        if values["train.batch_size"] == 2:
            raise ValueError("out of memory")
        return [1.0] if values["train.batch_size"] == 4 else []

    found = search(
        tmp_path / "s", Made(some), trials=6, space=("train.batch_size=2,4,8",), sampler="random", seed=3
    )
    told = {each["params"]["train.batch_size"]: (each["state"], each["error"]) for each in found.trials}
    assert told[2] == ("fail", "out of memory") and told[4] == ("complete", None)
    assert told[8][0] == "fail" and "no val/loss was measured" in told[8][1]


def test_another_space_under_the_same_name_and_a_second_runner_are_refused(tmp_path: Path) -> None:
    search(tmp_path / "s", Made(bowl), trials=1)
    with pytest.raises(ConfigError, match="another space"):
        search(tmp_path / "s", Made(bowl), trials=2, space=("optim.beta1=0.5..0.9",))

    def second(values: Mapping[str, Any]) -> list[float]:
        with pytest.raises(RunLocked):
            search(tmp_path / "s", Made(bowl), trials=2)
        return bowl(values)

    assert search(tmp_path / "s", Made(second), trials=2).exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim.lerning_rate=1..2", "optim.learning_rate"),
        ("learning_rate=1..2", "optim.learning_rate"),
        ("optim.learning_rate=1..0.1", "empty"),
        ("optim.learning_rate=-1..1", "must be"),
        ("optim.learning_rate=0.1", "nothing to search"),
        ("optim.weight_decay=0..0.1:log", "above 0"),
        ("train.batch_size=2,four", "must be"),
        ("optim.schedule=cosine..linear", "needs a number"),
        ("optim.muon_beta=0.9..0.99", "no effect"),
        ("train.devices=1,2", "changes no result"),
        ("optim.beta1", "no '='"),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_space(base(), assignments=[text])
    assert said in str(refused.value)


def test_a_file_and_flags_say_the_same_and_conditions_are_drawn_where_they_hold(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        '[space]\n"optim.learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
        '[space.optim]\nname = ["adamw", "muon"]\nmuon_beta = { low = 0.9, high = 0.99 }\n'
    )
    texts = ["optim.muon_beta=0.9..0.99", "optim.name=adamw,muon", "optim.learning_rate=1e-4..1e-2:log"]
    told = read_space(base(), file)
    assert told.to_dict() == read_space(base(), assignments=texts).to_dict()
    import optuna

    seen = set()
    for number in range(12):
        drawn = told.draw(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number)).ask())
        assert ("optim.muon_beta" in drawn) == (drawn["optim.name"] == "muon")
        told.settings(drawn, "test")  # legal together
        seen.add(drawn["optim.name"])
    assert seen == {"adamw", "muon"}
    file.write_text('[space]\n"optim.lr" = [1, 2]\n')
    with pytest.raises(ConfigError, match=r"space.toml:2"):
        read_space(base(), file)
    file.write_text('[space]\n"train.epochs" = { low = 2, high = 8, step = "2" }\n')
    with pytest.raises(ConfigError, match="'2' is no step"):
        read_space(base(), file)


class Deadly(LocalExecutor):
    """Kills the process of the first trial as soon as its run folder is there."""

    started = 0
    killed = False

    def start(self, order: Any) -> Any:
        running = super().start(order)
        self.started += 1
        if self.started == 1:
            outcome = running.outcome

            def after_a_kill() -> Any:
                if not self.killed and RunFolder.exists(order["run_dir"]):
                    self.killed = True
                    os.kill(running.process.pid, signal.SIGKILL)
                    running.process.join()
                return outcome()

            running.outcome = after_a_kill
        return running


def test_two_workers_train_and_one_that_is_killed_goes_on(tmp_path: Path) -> None:
    settings = base(
        ("model.target", str(MODEL)), ("data.source", str(write_text(tmp_path / "text"))),
        ("data.tokenizer", "bytes"), ("data.sequence_length", "16"), ("data.validation_split", "0.2"),
        ("train.batch_size", "2"), ("train.max_steps", "12"), ("train.eval_every", "4"),
    )  # fmt: skip
    space = read_space(settings, assignments=["optim.learning_rate=1e-3..1e-1:log"])
    executor = Deadly(2)
    found = run(
        SearchJob(name="real", space=space, trials=3, pruner="none"),
        How(root=tmp_path / "s", executor=executor),
    )
    assert executor.killed and executor.started == 4
    assert [each["state"] for each in found.trials] == ["complete"] * 3, found.trials
    assert all(len(each["validations"]) == 3 for each in found.trials)
    assert found.best_value == min(min(each["validations"]) for each in found.trials)


def test_the_command_tells_the_documented_object_and_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchstone.study.search.LocalExecutor", lambda jobs, device: Made(bowl, slots=jobs))
    line = [
        "search",
        "zoo:gpt-nano",
        "--space",
        "optim.learning_rate=1e-4..1e-2:log",
        "--space",
        "optim.beta1=0.5..0.9",
    ]
    assert type_line([*line, "--dry-run"]) == 0
    assert "0.0001 to 0.01 (log)" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert type_line([*line, "--trials", "2", "--jobs", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, schema("torchstone.search/1"))
    assert told["root"] == "runs/search-gpt-nano" and told["n_trials"] == 2
    assert type_line([*line, "--trials", "2"]) == 0  # nothing to do, and the words for it
    assert "best val/loss" in capsys.readouterr().out
    assert type_line(["search", "zoo:gpt-nano", "--space", "optim.lerning_rate=1..2"]) == 2
    assert "optim.learning_rate" in capsys.readouterr().err
    assert type_line([*line, "--pruner", "medain"]) == 2
    assert "no pruner 'medain'" in capsys.readouterr().err


def test_pictures_and_page_show_what_there_is(tmp_path: Path, whole: SearchResult, monkeypatch: Any) -> None:
    monkeypatch.undo()
    names = {Path(each).name for each in write_pictures(whole, tmp_path)}
    assert names == {"history.png", "slices.png", "parallel.png", "search.html"}
    words = (tmp_path / "search.html").read_text()
    assert "optim.beta1" in words and "<script" not in words and words.count("<svg") == 6


def test_the_familiar_call_searches_a_model_made_in_python() -> None:
    space = {"lr": (1e-4, 1e-2), "batch_size": [8, 16]}
    found = hyperparameter_search(lambda: Healthy([Block()]), n_trials=2, search_space=space)
    assert found.keys() == {"best_params", "best_value", "n_trials", "all_trials"}
    assert found["n_trials"] == 2 and found["best_value"] == min(
        each["value"] for each in found["all_trials"]
    )
    assert found["best_params"].keys() == {"learning_rate", "batch_size"}
    with pytest.raises(UsageError, match="learning_rat"):
        hyperparameter_search(lambda: Healthy([Block()]), search_space={"learning_rat": [1, 2]})
