"""Laws of the model registry: a stage has one holder, a version one model, and files are what they were."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from torchstone._errors import UsageError
from torchstone.tracking.migrations import migrate, model_registry
from torchstone.tracking.model_registry import ModelRegistry, NoSuchModelFile
from torchstone.tracking.store import Store

NAMES, STAGES = ("cat", "dog"), ("candidate", "production")


def weights(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text("{}")
    return folder


class Registrars(RuleBasedStateMachine):
    """People register, promote, retire and delete; a plain dictionary says what must be so."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = weights(Path(self.folder.name) / "model")
        self.registry = ModelRegistry(Path(self.folder.name) / "store.db")
        self.known: dict[int, dict] = {}
        self.numbers: set[int] = set()

    def teardown(self) -> None:
        self.registry.store.close()
        self.folder.cleanup()

    @rule(name=st.sampled_from(NAMES), tag=st.sampled_from(STAGES), data=st.data())
    def register(self, name: str, tag: str, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from([None, *self.known]))
        number = self.registry.register_model(
            name, None, self.path, "causal-lm", "hash", {}, parent_model_id=parent, tags=[tag]
        )
        assert number not in self.numbers, "a number is never used again"
        self.numbers.add(number)
        self.known[number] = {"name": name, "tags": {tag}, "status": "active", "parent": parent}

    @precondition(lambda self: self.known)
    @rule(tag=st.sampled_from(STAGES), data=st.data(), alone=st.booleans())
    def promote(self, tag: str, data: st.DataObject, alone: bool) -> None:
        number = data.draw(st.sampled_from([*self.known]))
        mine = self.known[number]
        if mine["status"] == "retired":
            with pytest.raises(UsageError, match="retired"):
                self.registry.promote_model(number, tag, alone)
            return
        self.registry.promote_model(number, tag, alone)
        for each in self.known.values():
            if alone and each["name"] == mine["name"]:
                each["tags"].discard(tag)
        mine["tags"].add(tag)
        if alone:
            found = self.registry.get_model(name=mine["name"], tag=tag)
            assert found is not None and found.model_id == number

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([*self.known]))
        self.registry.retire_model(number)
        self.known[number] |= {"status": "retired", "tags": set()}

    @precondition(lambda self: self.known)
    @rule(data=st.data(), force=st.booleans(), dry_run=st.booleans())
    def delete(self, data: st.DataObject, force: bool, dry_run: bool) -> None:
        number = data.draw(st.sampled_from([*self.known]))
        mine = self.known[number]
        if mine["tags"] and not force:
            with pytest.raises(UsageError, match="accident"):
                self.registry.delete_model(number, force, dry_run)
            return
        children = tuple(key for key, each in self.known.items() if each["parent"] == number)
        told = self.registry.delete_model(number, force, dry_run)
        assert (told.model.model_id, told.children, told.done) == (number, children, not dry_run)
        if not dry_run:
            for child in children:
                self.known[child]["parent"] = mine["parent"]
            del self.known[number]

    @invariant()
    def the_registry_knows_what_was_told(self) -> None:
        found = {each.model_id: each for each in self.registry.list_models(status=None)}
        told = {
            number: {"name": each.name, "tags": {*each.tags}, "status": each.status,
                     "parent": each.parent_model_id}
            for number, each in found.items()
        }  # fmt: skip
        assert told == self.known
        assert len({each.label for each in found.values()}) == len(found)
        for number in [*found][-2:]:
            line = [each.model_id for each in self.registry.get_model_lineage(number)]
            assert line[-1] == number and found[line[0]].parent_model_id is None
            assert line[:-1] == [found[each].parent_model_id for each in line[1:]]


Registrars.TestCase.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRegistrars = Registrars.TestCase


def test_a_model_is_found_by_everything_that_is_known_of_it(store: Store, tmp_path: Path) -> None:
    registry = ModelRegistry(store)
    old = registry.register_model(
        "cat", "1.0", weights(tmp_path / "a"), "causal-lm", "h1", {"val/loss": 2.0}, training_run_id="run-1",
        data={"train": "f00d/7"}, metadata={"team": "Whiskers"}, tags=["candidate"],
    )  # fmt: skip
    new = registry.register_model(
        "cat", None, weights(tmp_path / "b"), "vision", "h2", {"val/loss": 1.0}, {"onnx": tmp_path / "b"},
        parent_model_id=old,
    )  # fmt: skip
    listed = lambda **wanted: [each.model_id for each in registry.list_models(**wanted)]  # noqa: E731
    assert listed() == [new, old] and listed(limit=1) == [new]
    assert listed(task_type="vision") == listed(search="onnx") == [new]
    assert listed(tag="candidate") == listed(search="whiskers") == listed(search="f00d") == [old]
    assert listed(metric_name="val/loss", min_metric_value=1.5) == [old]
    assert listed(metric_name="val/loss", max_metric_value=1.5) == [new]
    assert listed(metric_name="accuracy", min_metric_value=0.0) == []
    for text in (str(old), "cat@1.0", "cat@candidate"):
        assert registry.find(text).model_id == old
    assert registry.find("cat").label == "cat@1", "the newest"
    assert registry.get_model(name="cat", version="9") is None
    registry.register_model("dog", None, tmp_path / "a", "causal-lm", "h1", {}, tags=["candidate"])
    with pytest.raises(UsageError, match="several names"):
        registry.get_model(tag="candidate")
    rows = registry.compare_models([old, new])
    assert [(row["name"], row["val/loss"]) for row in rows] == [("cat", 2.0), ("cat", 1.0)]


def test_what_cannot_be_registered_leaves_nothing(store: Store, tmp_path: Path) -> None:
    registry = ModelRegistry(store)
    path = weights(tmp_path / "a")
    registry.register_model("cat", "1", path, "causal-lm", "h", {})
    (tmp_path / "empty").mkdir()
    for name, version, where, problem in (
        ("cat", "1", path, "already"),
        ("c@t", "1", path, "no name"),
        ("12", "1", path, "no name"),
        ("dog", "1", tmp_path / "absent", "no model at"),
        ("dog", "1", tmp_path / "empty", "no model at"),
    ):
        with pytest.raises(UsageError, match=problem):
            registry.register_model(name, version, where, "causal-lm", "h", {})
    with pytest.raises(NoSuchModelFile):
        registry.register_model("dog", "1", tmp_path / "absent", "causal-lm", "h", {})
    with pytest.raises(UsageError, match="no model 99"):
        registry.register_model("dog", "1", path, "causal-lm", "h", {}, parent_model_id=99)
    assert [each.label for each in registry.list_models()] == ["cat@1"]


def test_a_changed_or_missing_file_is_named(store: Store, tmp_path: Path) -> None:
    registry = ModelRegistry(store)
    path, export = weights(tmp_path / "a"), tmp_path / "model.onnx"
    export.write_bytes(b"graph")
    number = registry.register_model("cat", None, path, "causal-lm", "h", {}, {"onnx": export})
    same = registry.register_model("cat", None, weights(tmp_path / "b"), "causal-lm", "h", {})
    assert registry.find(str(number)).sha256 == registry.find(str(same)).sha256
    assert registry.verify_model(number) == []
    (path / "model.safetensors").write_bytes(b"Weights")
    assert registry.verify_model(number) == ["checkpoint: model.safetensors has other content"]
    (path / "config.json").unlink()
    export.write_bytes(b"graph, longer")
    assert registry.verify_model(number) == [
        "checkpoint: config.json is missing",
        "checkpoint: model.safetensors has other content",
        "onnx: model.onnx has 13 bytes instead of 5",
    ]
    registry.add_export_format(number, "onnx", export)
    assert registry.verify_model(number)[-1].startswith("checkpoint")


def test_a_store_from_before_the_registry_gets_it(tmp_path: Path) -> None:
    from torchstone.tracking import migrations

    whole = migrations.MIGRATIONS
    before = whole[: whole.index(model_registry)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", before)
        with Store.open(tmp_path / "store.db") as old:
            old.start_run("r", name="n", kind="train", run_dir="x")
    registry = ModelRegistry(tmp_path / "store.db")
    assert registry.register_model("cat", None, weights(tmp_path / "a"), "causal-lm", "h", {}) == 1
    assert registry.store.run("r").name == "n"
    assert registry.store.database.read(migrations.version) == len(whole)
    assert migrate(registry.store.database._engine.connect()) is None, "twice does no harm"
