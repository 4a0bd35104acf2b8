"""A function body as a list of units in which every name is assigned once.

Calls of sub-modules are lifted out of the expressions that hold them, each into a unit of its own, and a
variable that is assigned again gets a new name (`x`, `x__2`, ...). Units may then be emitted in any order
that respects who reads whom, and a later statement can speak of an earlier value. An `if`, a loop or a
`with` stays one unit.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torchstone.adapt.forward_source import read_names, stored_names

_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)
_NOT_ALWAYS = (ast.IfExp, ast.BoolOp, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class ModuleCall:
    """`value = self.path(...)`, a unit of its own."""

    path: str
    """Dotted name of the sub-module: "mhsa_0", "blocks.1.attn"."""
    value: str
    """The variable that holds what it returned."""
    node: ast.Call


@dataclass
class Unit:
    """Statements that are emitted together."""

    statements: list[ast.stmt]
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    call: ModuleCall | None = None
    returns: bool = False


def units_of(
    body: list[ast.stmt], parameters: list[str], path_of: Callable[[ast.expr], str | None]
) -> list[Unit]:
    """Split `body`; `path_of` says which sub-module an expression is, if any."""
    lifted: list[tuple[ast.stmt, str | None]] = []
    for statement in copy.deepcopy(body):
        if _is_docstring(statement):
            continue
        if isinstance(statement, _SIMPLE) and not _has_walrus(statement):
            lifter = _Lifter(path_of, len(lifted))
            lifter.visit(statement)
            lifted += lifter.calls
            lifted.append((statement, None))
        else:
            lifted.append((statement, None))
    namer = _Namer(parameters)
    return [namer.unit(statement, path) for statement, path in lifted]


class _Lifter(ast.NodeTransformer):
    """Moves calls of sub-modules in front of the statement; leaves alone what may not be evaluated."""

    def __init__(self, path_of: Callable[[ast.expr], str | None], start: int) -> None:
        self.path_of = path_of
        self.start = start
        self.calls: list[tuple[ast.stmt, str | None]] = []

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, _NOT_ALWAYS):
            return node
        visited: ast.AST = super().visit(node)
        return visited

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        path = self.path_of(node.func)
        if path is None:
            return node
        name = f"_call_{self.start + len(self.calls)}_{path.replace('.', '_')}"
        stored = ast.copy_location(ast.Name(name, ast.Store()), node)
        self.calls.append((ast.copy_location(ast.Assign([stored], node), node), path))
        return ast.copy_location(ast.Name(name, ast.Load()), node)


class _Namer:
    """Gives each assignment of a variable its own name."""

    def __init__(self, parameters: list[str]) -> None:
        self.current = {name: name for name in parameters}
        self.versions = dict.fromkeys(parameters, 1)

    def unit(self, statement: ast.stmt, path: str | None) -> Unit:
        if isinstance(statement, _SIMPLE) and not _has_walrus(statement):
            statements = self._simple(statement)
        else:
            statements = self._compound(statement)
        unit = Unit(statements)
        for each in statements:
            unit.reads |= read_names(each) - unit.writes
            unit.writes |= stored_names(each)
        unit.returns = any(isinstance(node, ast.Return) for each in statements for node in ast.walk(each))
        if path is not None:
            call = statements[0]
            assert isinstance(call, ast.Assign) and isinstance(call.value, ast.Call)
            assert isinstance(call.targets[0], ast.Name)
            unit.call = ModuleCall(path, call.targets[0].id, call.value)
        return unit

    def _simple(self, statement: ast.stmt) -> list[ast.stmt]:
        before = dict(self.current)
        first: list[ast.stmt] = []
        for name in sorted(_assigned_here(statement)):
            new = self._next(name)
            if isinstance(statement, ast.AugAssign) and name in before:
                # `x += y` changes the tensor in place: keep that, under the new name.
                first.append(_alias(new, before[name], statement))
                before[name] = new
            self.current[name] = new
        renamed = _Renamer(before, self.current).visit(statement)
        return [*first, renamed]

    def _compound(self, statement: ast.stmt) -> list[ast.stmt]:
        first: list[ast.stmt] = []
        for name in sorted(stored_names(statement)):
            if name in self.current:
                old, new = self.current[name], self._next(name)
                first.append(_alias(new, old, statement))
                self.current[name] = new
            else:
                self.current[name] = self._next(name)
        return [*first, _Renamer(self.current, self.current).visit(statement)]

    def _next(self, name: str) -> str:
        self.versions[name] = self.versions.get(name, 0) + 1
        return name if self.versions[name] == 1 else f"{name}__{self.versions[name]}"


class _Renamer(ast.NodeTransformer):
    def __init__(self, loads: dict[str, str], stores: dict[str, str]) -> None:
        self.loads = loads
        self.stores = stores

    def visit_Name(self, node: ast.Name) -> ast.Name:
        names = self.loads if isinstance(node.ctx, ast.Load) else self.stores
        return ast.copy_location(ast.Name(names.get(node.id, node.id), node.ctx), node)


def _alias(new: str, old: str, at: ast.stmt) -> ast.stmt:
    made = ast.Assign([ast.Name(new, ast.Store())], ast.Name(old, ast.Load()))
    return ast.fix_missing_locations(ast.copy_location(made, at))


def _assigned_here(statement: ast.stmt) -> set[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        targets = [statement.target]
    return {name for target in targets for name in stored_names(target)}


def _has_walrus(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.NamedExpr) for node in ast.walk(statement))


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
