"""Run a stranger's model.py in a module of its own, choose the class, and build it.

The file is executed here and now, in this process: whoever calls has settled the question of trust.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torchstone._errors import ModelError, TorchstoneError, UsageError
from torchstone.adapt.config_file import ModelFile
from torchstone.adapt.construct import arguments_for, build, refuse_unused

if TYPE_CHECKING:
    from torch import nn

_FACTORY = "build_model"
_numbers = itertools.count(1)


@dataclass
class BuiltModel:
    """A module built from a source file, with what a fingerprint and a reader want to know."""

    module: nn.Module
    class_name: str
    sources: dict[str, bytes]
    """The file and the siblings it imported: name relative to the folder -> content."""
    notes: list[str] = field(default_factory=list)


def build_from_file(
    path: Path,
    config: ModelFile,
    *,
    class_name: str | None = None,
    name_hint: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> BuiltModel:
    """Execute `path`, choose its class (see `choose`), and construct it from `config`."""
    path = path.resolve()
    source = _read(path)
    tree = _parse(source, path)
    overrides = dict(overrides or {})
    with _importable(path.parent) as siblings:
        with _blaming(path):
            module = _execute(path, source)
        factory, notes = choose(module, tree, class_name=class_name, name_hint=name_hint, path=path)
        wanted = ModelFile({**config.values, **overrides}, config.model_name, config.conflicts)
        call = arguments_for(factory, wanted, module)
        refuse_unused(overrides, call, wanted, getattr(factory, "__name__", "the model"))
        with _blaming(path):
            built = build(factory, call)
    return BuiltModel(
        module=_expect_module(built, factory, path),
        class_name=type(built).__name__,
        sources={path.name: source, **siblings},
        notes=[*config.notes, *notes, *call.notes],
    )


def choose(
    module: ModuleType,
    tree: ast.Module,
    *,
    class_name: str | None = None,
    name_hint: str | None = None,
    path: Path | None = None,
) -> tuple[Callable[..., Any], list[str]]:
    """The factory: the class asked for, else `build_model`, else the class that is nobody's part."""
    classes = _model_classes(module)
    where = str(path) if path else module.__name__
    if class_name is not None:
        return _asked_for(class_name, module, classes, where), []
    notes: list[str] = []
    if name_hint is not None:
        if name_hint in classes:
            return classes[name_hint], notes
        notes.append(
            f"the model is called {name_hint!r}, but no class of the file is; it was chosen by its use"
        )
    factory = vars(module).get(_FACTORY)
    if callable(factory):
        return factory, notes
    if not classes:
        raise ModelError(
            "the file defines no torch.nn.Module class and no build_model()",
            where=where,
            next="define the model as a subclass of torch.nn.Module in this file",
        )
    used = _parts(tree, set(classes))
    candidates = [name for name in classes if name not in used]
    if len(candidates) == 1:
        return classes[candidates[0]], notes
    listed = candidates or list(classes)
    raise UsageError(
        f"which class is the model? {', '.join(listed)}",
        where=where,
        why="several classes are not used as a part by another"
        if candidates
        else "every class is used as a part by another",
        next=f"name it: {where}:{listed[-1]}, or write model_name into config.json",
    )


def _asked_for(
    name: str, module: ModuleType, classes: Mapping[str, type[nn.Module]], where: str
) -> Callable[..., Any]:
    if name in classes:
        return classes[name]
    found = vars(module).get(name)
    if callable(found) and not isinstance(found, type):
        return found
    from torchstone._registry import suggest

    raise UsageError(
        f"the file has no model class {name!r}",
        where=where,
        why=f"{name} is no torch.nn.Module" if found is not None else suggest(name, classes),
        next=f"its classes are: {', '.join(classes) or 'none'}",
    )


def _model_classes(module: ModuleType) -> dict[str, type[nn.Module]]:
    """The nn.Module classes that this file defines, in order; imported ones are not its own."""
    from torch import nn

    return {
        name: each
        for name, each in vars(module).items()
        if isinstance(each, type) and issubclass(each, nn.Module) and each.__module__ == module.__name__
    }


def _parts(tree: ast.Module, classes: set[str]) -> set[str]:
    """Classes that another class names: as a base, in its body, or through a function it calls."""
    mentions: dict[str, set[str]] = {}
    for statement in tree.body:
        for name in _defined(statement):
            mentions.setdefault(name, set()).update(_names(statement))
    used: set[str] = set()
    for owner in classes:
        seen, ahead = {owner}, list(mentions.get(owner, ()))
        while ahead:
            name = ahead.pop()
            if name in seen:
                continue
            seen.add(name)
            if name not in classes:
                ahead.extend(mentions.get(name, ()))
        used |= (seen & classes) - {owner}
    return used


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [
            name.id for target in statement.targets for name in ast.walk(target) if isinstance(name, ast.Name)
        ]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    if isinstance(statement, ast.If | ast.Try | ast.With):
        return [
            name
            for inner in ast.iter_child_nodes(statement)
            if isinstance(inner, ast.stmt)
            for name in _defined(inner)
        ]
    return []


def _names(node: ast.AST) -> set[str]:
    found: set[str] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            found.add(each.id)
        elif isinstance(each, ast.arg | ast.AnnAssign) and isinstance(each.annotation, ast.Constant):
            found |= _names_in_text(each.annotation.value)
    return found


def _names_in_text(annotation: Any) -> set[str]:
    if not isinstance(annotation, str):
        return set()
    try:
        return _names(ast.parse(annotation, mode="eval"))
    except SyntaxError:
        return set()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UsageError(f"cannot read {path.name}", where=str(path), why=problem.strerror or "") from None


def _parse(source: bytes, path: Path) -> ast.Module:
    try:
        return ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError) as broken:
        line = getattr(broken, "lineno", None)
        raise ModelError(
            f"{path.name} is not valid Python",
            where=f"{path}:{line}" if line else str(path),
            why=getattr(broken, "msg", None) or str(broken),
        ) from None


def _execute(path: Path, source: bytes) -> ModuleType:
    """Run the file under a name of its own; it stays in sys.modules, as pickle and dataclasses need."""
    digest = hashlib.sha256(source).hexdigest()[:8]
    module = ModuleType(f"torchstone_model_{digest}_{next(_numbers)}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[dict[str, bytes]]:
    """Let the file import its neighbours while it is built, and leave no trace of them by their bare names.

    A neighbour called `utils` must neither be the `utils` of the model loaded before, nor become the
    `utils` of the next. What it imported is put into the dictionary that is given.
    """
    neighbours = {each.stem for each in folder.glob("*.py")}
    neighbours |= {each.parent.name for each in folder.glob("*/__init__.py")}
    neighbours -= sys.stdlib_module_names | {"torch", "torchstone", "numpy"}
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in neighbours}
    before = set(sys.modules)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    sources: dict[str, bytes] = {}
    try:
        yield sources
    finally:
        sys.dont_write_bytecode = bytecode
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in [each for each in sys.modules if each not in before]:
            file = getattr(sys.modules[name], "__file__", None)
            if name.split(".")[0] not in neighbours or not file or not Path(file).is_relative_to(folder):
                continue
            sources[str(Path(file).relative_to(folder))] = Path(file).read_bytes()
            del sys.modules[name]
        sys.modules.update(hidden)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever the user's code raises into an error that names its file and line."""
    try:
        yield
    except TorchstoneError:
        raise
    except (Exception, SystemExit) as problem:
        raise blame(problem, path) from problem


def blame(problem: BaseException, path: Path) -> ModelError:
    """The error for an exception out of the user's code: the deepest line of theirs, and what it said."""
    frames = traceback.extract_tb(problem.__traceback__, limit=-100)  # a runaway recursion has millions
    theirs = [each for each in frames if Path(each.filename).is_relative_to(path.parent)]
    line = theirs[-1] if theirs else None
    said = f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__
    if isinstance(problem, SystemExit):
        said = f"it asked Python to exit ({problem.code!r})"
    return ModelError(
        f"{path.name} raised {said}",
        where=f"{line.filename}:{line.lineno} in {line.name}" if line else str(path),
        why=f"the line reads: {line.line}" if line and line.line else "",
        next=_missing_import(problem),
    )


def _missing_import(problem: BaseException) -> str:
    if isinstance(problem, ModuleNotFoundError) and problem.name:
        return f"install {problem.name.split('.')[0]}, or put it beside the file"
    return ""


def _expect_module(built: Any, factory: Callable[..., Any], path: Path) -> nn.Module:
    from torch import nn

    if isinstance(built, nn.Module):
        return built
    raise ModelError(
        f"{getattr(factory, '__name__', 'the factory')}() gave a {type(built).__name__}, no torch.nn.Module",
        where=str(path),
        next="return the model itself",
    )
