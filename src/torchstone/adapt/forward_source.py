"""The text of a model's `forward`, and what must fail in it before it is run.

Only certain failures are told: a name that nothing assigns, a local read before its assignment, a part of
`self` that does not exist, each in a statement that always runs.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import nn

from torchstone._errors import ModelError


@dataclass(frozen=True)
class ForwardSource:
    """`forward` as a function and as a syntax tree whose line numbers are those of the file."""

    function: FunctionType
    tree: ast.FunctionDef
    file: str

    @property
    def self_name(self) -> str:
        arguments = [*self.tree.args.posonlyargs, *self.tree.args.args]
        return arguments[0].arg if arguments else "self"

    def at(self, node: ast.AST) -> str:
        """`model.py:37`, where `node` stands."""
        return f"{Path(self.file).name}:{getattr(node, 'lineno', self.tree.lineno)}"


def read_source(module: nn.Module) -> ForwardSource | None:
    """The source of `forward`, or None where Python has none (built-in, typed at a prompt)."""
    forward: Any = vars(module).get("forward", type(module).forward)
    function = inspect.unwrap(getattr(forward, "__func__", forward))
    if not isinstance(function, FunctionType):
        return None
    try:
        lines, _ = inspect.getsourcelines(function)
        # An indented function is a syntax error by itself; under `if True:` it is none.
        tree = ast.parse("if True:\n" + "".join(lines) if lines[0][:1].isspace() else "\n" + "".join(lines))
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    found = next((each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)), None)
    if found is None:
        return None
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 2)
    return ForwardSource(function, found, inspect.getsourcefile(function) or function.__code__.co_filename)


@dataclass(frozen=True)
class Fault:
    """Something in `forward` that must fail."""

    name: str
    line: int
    story: str


def faults(source: ForwardSource, module: nn.Module) -> list[Fault]:
    """Certain failures of `forward`, in the order of lines."""
    return [*_unassigned(source), *_missing_parts(source, module)]


def refuse_faults(source: ForwardSource, module: nn.Module) -> None:
    """Raise the diagnosis of a `forward` that cannot run."""
    found = sorted(faults(source, module), key=lambda each: each.line)
    if not found:
        return
    first = found[0]
    file = Path(source.file).name
    raise ModelError(
        f"{type(module).__name__}.forward cannot run: {first.story} (line {first.line})",
        where=f"{file}:{first.line}",
        why="; ".join(f"line {each.line}: {each.story}" for each in found),
        next=f"correct {file}: assign {first.name} before it is read, or export the model again",
    )


def _unassigned(source: ForwardSource) -> Iterator[Fault]:
    function = source.function
    known = {*dir(builtins), *function.__globals__, *function.__code__.co_freevars}
    parameters = {each.arg for each in _arguments(source.tree)}
    stored = {each for statement in source.tree.body for each in stored_names(statement)}
    assigned = set(parameters)
    told: set[str] = set()
    for statement in _surely_reached(source.tree.body):
        for name in _certain_reads(statement):
            unknown = name.id not in assigned and (name.id in stored or name.id not in known)
            if unknown and name.id not in told:
                told.add(name.id)
                yield Fault(name.id, name.lineno, _story(statement, name.id, name.id in stored))
        assigned |= stored_names(statement)


def _story(statement: ast.stmt, name: str, later: bool) -> str:
    verb = "returns" if isinstance(statement, ast.Return) else "reads"
    return f"it {verb} {name}, which " + ("is assigned only later" if later else "nothing assigns")


def _missing_parts(source: ForwardSource, module: nn.Module) -> Iterator[Fault]:
    told: set[str] = set()
    own = {
        each.attr
        for each in ast.walk(source.tree)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and _is_self(each.value, source)
    }
    for statement in _surely_reached(source.tree.body):
        for node in _always_run(statement):
            if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)):
                continue
            if not _is_self(node.value, source) or node.attr in own or node.attr in told:
                continue
            if not _has(module, node.attr):
                told.add(node.attr)
                yield Fault(
                    node.attr, node.lineno, f"it uses self.{node.attr}, which the model does not have"
                )


def _surely_reached(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements up to the first that may return early."""
    for statement in body:
        yield statement
        if any(isinstance(node, ast.Return) for node in ast.walk(statement)):
            return


def _has(module: nn.Module, name: str) -> bool:
    if name.startswith("__") and not name.endswith("__"):
        return True
    # A property may compute or fail for its own reasons; that it is defined is enough.
    return hasattr(type(module), name) or hasattr(module, name)


def _is_self(node: ast.expr, source: ForwardSource) -> bool:
    return isinstance(node, ast.Name) and node.id == source.self_name


def _arguments(tree: ast.FunctionDef) -> list[ast.arg]:
    args = tree.args
    stars = [each for each in (args.vararg, args.kwarg) if each is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *stars]


def _certain_reads(statement: ast.stmt) -> Iterator[ast.Name]:
    for node in _always_run(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node


_OWN_SCOPE = (
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.FunctionDef,
    ast.ClassDef,
)


def _always_run(statement: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a statement that are evaluated whenever the statement is reached; conditions, not branches."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)):
        # An annotation of a local is never evaluated.
        parts = [statement.value] if isinstance(statement, ast.AnnAssign) else [statement]
        for part in parts:
            if part is not None:
                yield from _eager(part)
    elif isinstance(statement, ast.If):
        yield from _eager(statement.test)
    elif isinstance(statement, ast.For):
        yield from _eager(statement.iter)


def _eager(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, _OWN_SCOPE):
        return
    yield node
    if isinstance(node, ast.IfExp):
        yield from _eager(node.test)
        return
    if isinstance(node, ast.BoolOp):
        yield from _eager(node.values[0])
        return
    for child in ast.iter_child_nodes(node):
        yield from _eager(child)


def stored_names(statement: ast.AST) -> set[str]:
    """Every name that a statement may assign."""
    names = {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del))
    }
    for node in ast.walk(statement):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def read_names(node: ast.AST) -> set[str]:
    """Every name that a piece of code may read."""
    return {
        each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
    }
