"""A TARGET becomes a module: `load` is the one door by which every model enters, ours and a stranger's.

It settles trust first, because loading a model means running its author's code; what may not be run here
runs in the isolated worker (`adapt/isolate.py`), where a job calls this function again with `trust=True`.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import ConfigError, ModelError, UntrustedCode, UsageError
from torchstone.adapt.config_file import ModelFile, read_config
from torchstone.adapt.target import Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from torchstone.adapt.adapter import Adapter
    from torchstone.adapt.facts import ModelFacts
    from torchstone.adapt.signature import Signature
    from torchstone.data.task import TaskSpec


@dataclass
class LoadedModel:
    """A module that came in, and where it came from."""

    module: nn.Module
    config: dict[str, Any]
    target: str
    class_name: str
    fingerprint: str
    trusted: bool = True
    notes: list[str] = field(default_factory=list)
    """What a reader should know: aliases used, keys left out, weights that are random."""
    task_given: TaskSpec | str | None = None
    recipe: tuple[str, dict[str, Any]] | None = None
    """TARGET and overrides that build it without the weights it came with; None: as it was asked for."""

    @cached_property
    def adapter(self) -> Adapter:
        """`Batch -> Output` for this module; built when first asked for, because it probes the model."""
        from torchstone.adapt.adapter import adapt
        from torchstone.data.task import TaskSpec

        task = TaskSpec.from_name(self.task_given) if isinstance(self.task_given, str) else self.task_given
        return adapt(self.module, config=self.config, task=task)

    @property
    def signature(self) -> Signature:
        return self.adapter.signature

    @property
    def facts(self) -> ModelFacts:
        return self.adapter.facts

    @property
    def task(self) -> TaskSpec:
        return self.adapter.task


@dataclass
class _Found:
    """What each kind of target gives back, before it is finished into a `LoadedModel`."""

    module: nn.Module
    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    sources: dict[str, bytes] | None = None
    recipe: tuple[str, dict[str, Any]] | None = None


def load(
    target: str | Path | nn.Module,
    *,
    task: TaskSpec | str | None = None,
    model_name: str | None = None,
    trust: bool | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Load any model. `overrides` are sizes that replace its own; `seed` draws its initial weights.

    `trust=None` trusts local paths, installed packages and the zoo, and refuses gists with `UntrustedCode`;
    `trust=True` runs anything here, `trust=False` nothing.
    """
    if not isinstance(target, str | Path):
        return _wrap(target, task, overrides)
    found_target = parse_target(target)
    if model_name is not None:
        found_target = _with_class(found_target, model_name)
    if found_target.kind in ("run", "checkpoint"):
        return _load_saved(found_target, task, trust, overrides, seed)
    settle_trust(found_target, trust)
    wanted = {key: value for key, value in (overrides or {}).items() if value is not None}
    if found_target.kind not in ("zoo", "gpt2"):
        _refuse_mechanisms(wanted, found_target)

    from torchstone._seeds import preserved_rng

    with preserved_rng(seed):
        found = _LOADERS[found_target.kind](found_target, wanted)
    return _finish(found, str(target), task)


def _refuse_mechanisms(wanted: Mapping[str, Any], target: Target) -> None:
    """Mechanisms go into blocks that are ours; a stranger's model has its own, whatever its arguments."""
    from torchstone.nn.config import NESTED

    for section in NESTED:
        if section in wanted:
            raise ConfigError(
                f"model.{section}.name has no effect on {target.text}",
                why="mechanisms are chosen for the blocks of torchstone's own models",
                next=f"leave model.{section} out, or train a zoo: model with it",
            )


def _load_saved(
    target: Target,
    task: TaskSpec | str | None,
    trust: bool | None,
    overrides: Mapping[str, Any] | None,
    seed: int,
) -> LoadedModel:
    from torchstone.adapt.saved import load_saved

    if any(value is not None for value in (overrides or {}).values()):
        raise ConfigError("the sizes of a trained model cannot be overridden", where=target.text)
    return load_saved(target, trust=trust, task=task, seed=seed)


def describe(target: str) -> dict[str, Any]:
    """What a target is, as plain values; the smallest job for the isolated worker, hence `trust=True`."""
    model = load(target, trust=True)
    return {
        "class": model.class_name,
        "fingerprint": model.fingerprint,
        "parameters": sum(each.numel() for each in model.module.parameters()),
        "config": {key: value for key, value in model.config.items() if isinstance(value, int | float | str)},
        "notes": model.notes,
    }


def settle_trust(target: Target, trust: bool | None) -> None:
    """Raise `UntrustedCode` unless the code of `target` may run in this process."""
    if trust is True or (trust is None and not target.untrusted_by_default):
        return
    if trust is None:
        raise UntrustedCode(
            f"{target.text} is code from a stranger",
            why="loading it here would run it with your rights",
            next=f"torchstone check {target.text} runs it isolated; --trust (trust=True) runs it here",
        )
    raise UntrustedCode(
        f"{target.text} was said to be untrusted, and loading it here would run its code",
        next=f"torchstone check --untrusted {target.text} runs it isolated",
    )


def _wrap(module: nn.Module, task: TaskSpec | str | None, overrides: Mapping[str, Any] | None) -> LoadedModel:
    from torch import nn

    if not isinstance(module, nn.Module):
        raise UsageError(
            f"a {type(module).__name__} is no model",
            why="load takes a TARGET or a torch.nn.Module",
            next="ts.load('path/model.py')",
        )
    if any(value is not None for value in (overrides or {}).values()):
        raise ConfigError("sizes of a module that is already built cannot be overridden")
    return _finish(_Found(module, config_of(module)), type(module).__name__, task)


def config_of(module: nn.Module) -> dict[str, Any]:
    """The configuration that a module carries as `.config`, as a dictionary; empty if it carries none."""
    carried = getattr(module, "config", None)
    if isinstance(carried, Mapping):
        return dict(carried)
    to_dict = getattr(carried, "to_dict", None)
    if callable(to_dict) and not isinstance(carried, type):
        return dict(to_dict())  # before the fields: of the library's configurations these are not all
    if dataclasses.is_dataclass(carried) and not isinstance(carried, type):
        return {each.name: _plain(getattr(carried, each.name)) for each in dataclasses.fields(carried)}
    return dict(vars(carried)) if hasattr(carried, "__dict__") and not isinstance(carried, type) else {}


def _plain(value: Any) -> Any:
    """A section of options as the dictionary that it stands for."""
    from torchstone.config.schema import Section

    return value.model_dump() if isinstance(value, Section) else value


def _finish(found: _Found, target: str, task: TaskSpec | str | None) -> LoadedModel:
    from torchstone.adapt.fingerprint import fingerprint

    return LoadedModel(
        module=found.module,
        config=found.config,
        target=target,
        class_name=type(found.module).__name__,
        fingerprint=fingerprint(found.module, found.config, found.sources),
        notes=found.notes,
        task_given=task,
        recipe=found.recipe,
    )


def _with_class(target: Target, class_name: str) -> Target:
    if target.kind not in ("file", "folder", "gist"):
        raise UsageError(f"a class cannot be chosen in {target.text}", next="leave model_name out")
    return dataclasses.replace(target, class_name=class_name)


# --- one loader per kind of target ---------------------------------------------------------------------


def _from_file(target: Target, overrides: dict[str, Any]) -> _Found:
    path = target.path
    beside = path.parent / "config.json"
    # A config.json describes the model.py beside it; another file of that folder may be another model.
    config = read_config(beside) if path.name == "model.py" and beside.is_file() else ModelFile({})
    return _from_source(target, path, config, overrides)


def _from_folder(target: Target, overrides: dict[str, Any]) -> _Found:
    beside = target.path / "config.json"
    config = read_config(beside) if beside.is_file() else ModelFile({})
    return _from_source(target, target.path / "model.py", config, overrides)


def _from_gist(target: Target, overrides: dict[str, Any]) -> _Found:
    from torchstone.adapt.gist import fetch_gist

    gist = fetch_gist(target)
    found = _from_folder(dataclasses.replace(target, kind="folder", value=str(gist.folder)), overrides)
    found.notes[:0] = gist.notes
    return found


def _from_source(target: Target, path: Path, config: ModelFile, overrides: dict[str, Any]) -> _Found:
    from torchstone.adapt.source_file import build_from_file

    built = build_from_file(
        path,
        config,
        class_name=target.class_name,
        name_hint=config.model_name or target.name_hint,
        overrides=overrides,
    )
    return _Found(built.module, {**config.values, **overrides}, built.notes, built.sources)


def _from_hub(target: Target, overrides: dict[str, Any]) -> _Found:
    from torchstone.adapt.huggingface import build_from_hub

    hub = build_from_hub(target.value, overrides)
    return _Found(hub.module, hub.config, hub.notes)


def _from_zoo(target: Target, overrides: dict[str, Any]) -> _Found:
    from torchstone.nn.zoo import ZOO

    module, config = ZOO.get(target.value).build(overrides)
    return _Found(module, dict(config))


def _from_gpt2(target: Target, overrides: dict[str, Any]) -> _Found:
    from torchstone.nn.gpt2_weights import RECIPE, build_gpt2

    built = build_gpt2(target.path, overrides)
    return _Found(built.module, built.config, built.notes, recipe=(f"zoo:{RECIPE}", built.overrides))


def _from_object(target: Target, overrides: dict[str, Any]) -> _Found:
    """`package.module:attribute`: an instance, a class, or a function that builds one."""
    from torch import nn

    from torchstone.adapt.construct import arguments_for, build, refuse_unused

    assert target.class_name is not None
    found = _attribute(target)
    if isinstance(found, nn.Module):
        if overrides:
            raise ConfigError(f"{target.text} is already built; its sizes cannot be overridden")
        return _Found(found, config_of(found))
    if not callable(found):
        raise ModelError(f"{target.text} is a {type(found).__name__}, neither a model nor a way to build one")
    config = ModelFile(overrides)
    call = arguments_for(found, config)
    refuse_unused(overrides, call, config, target.class_name)
    with _blaming_object(target):
        built = build(found, call)
    if not isinstance(built, nn.Module):
        raise ModelError(f"{target.text}() gave a {type(built).__name__}, no torch.nn.Module")
    return _Found(built, {**config_of(built), **overrides}, call.notes)


def _attribute(target: Target) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` does, so that a package in the working folder is found
    try:
        with _blaming_object(target):
            found: Any = importlib.import_module(target.value)
    finally:
        if here in sys.path:
            sys.path.remove(here)
    for step in (target.class_name or "").split("."):
        if not hasattr(found, step):
            from torchstone._registry import suggest

            raise UsageError(
                f"{target.value} has no attribute {step!r}",
                where=target.text,
                why=suggest(step, [name for name in dir(found) if not name.startswith("_")]),
            )
        found = getattr(found, step)
    return found


@contextmanager
def _blaming_object(target: Target) -> Iterator[None]:
    import traceback

    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name and target.value.startswith(missing.name):
            raise UsageError(
                f"there is no module {target.value}",
                where=target.text,
                why=f"{missing.name} cannot be imported from here",
                next="install the package, or run from the folder that holds it",
            ) from None
        raise ModelError(f"importing {target.value} failed: {missing}", where=target.text) from missing
    except (Exception, SystemExit) as problem:
        last = traceback.extract_tb(problem.__traceback__)[-1]
        raise ModelError(
            f"{target.text} raised {type(problem).__name__}: {problem}",
            where=f"{last.filename}:{last.lineno} in {last.name}",
        ) from problem


_LOADERS: dict[str, Callable[[Target, dict[str, Any]], _Found]] = {
    "file": _from_file,
    "folder": _from_folder,
    "gist": _from_gist,
    "hf": _from_hub,
    "zoo": _from_zoo,
    "gpt2": _from_gpt2,
    "object": _from_object,
}
