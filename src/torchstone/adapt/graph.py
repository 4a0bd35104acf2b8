"""Complete a visual builder's export: its `forward` asks for results of its own graph, and we compute them.

`forward(self, input_0_tokens, mhsa_0_output, residual_0_output)` is read as a syntax tree and completed:
each asked-for result is defined just before it is first read, from the calls that the body makes itself
(same arguments, same mask, same dropout) or, where the body makes none, from the module that the name means.
So each module runs once per forward, gradients flow, and nothing is invented: what cannot be defined is a
`ModelError` that says why.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchstone._errors import ModelError
from torchstone.adapt import graph_parts
from torchstone.adapt.completion import Completion
from torchstone.adapt.forward_source import ForwardSource, read_source, refuse_faults
from torchstone.adapt.signature import Signature


class GraphPlan:
    """The completed `forward` of one export."""

    def __init__(self, module: nn.Module, source: ForwardSource, wanted: tuple[str, ...]) -> None:
        self.module = module
        self.wanted = wanted
        completion = Completion(module, source, wanted)
        self._results = _compiled(source, wanted, completion.results_only(), "results")
        self._forward = _compiled(source, wanted, completion.whole_body(), "completed")
        self.notes = tuple(completion.notes)

    def run(self, given: Mapping[str, Any]) -> Any:
        """One forward pass through the module, hooks included, with the completed body."""
        own = self.module.__dict__
        before = own.get("forward")
        own["forward"] = self._bound
        try:
            return self.module(**given)
        finally:
            if before is None:
                del own["forward"]
            else:
                own["forward"] = before

    def _bound(self, **given: Any) -> Any:
        return self._forward(self.module, **given)

    def intermediates(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The asked-for results for these inputs, by argument name."""
        results: dict[str, Any] = self._results(self.module, **given)
        return results


def plan_graph(module: nn.Module, signature: Signature) -> GraphPlan | None:
    """Diagnose `forward`; and where it requires intermediates, plan how they are computed."""
    source = read_source(module)
    if source is not None:
        refuse_faults(source, module)
    wanted = tuple(each.name for each in signature.intermediates)
    if not wanted:
        return None
    if source is None:
        raise ModelError(
            f"parameter {wanted[0]} cannot be produced: the source of forward cannot be read",
            where=type(module).__name__,
            why="which mask and norms the graph uses stands only in the body of forward",
            next="load the model from its file: torchstone.load('path/model.py')",
        )
    return GraphPlan(module, source, wanted)


def _compiled(
    source: ForwardSource, wanted: tuple[str, ...], body: list[ast.stmt], name: str
) -> Callable[..., Any]:
    """A function of the same arguments less `wanted`, the same globals and closure, and a new body."""
    tree = copy.deepcopy(source.tree)
    given = _defaults(source, tree)
    _drop_arguments(tree.args, set(wanted))
    tree.name, tree.body, tree.returns = name, body, None
    for argument in [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]:
        argument.annotation = None
    closure = {
        cell_name: cell.cell_contents
        for cell_name, cell in zip(
            source.function.__code__.co_freevars, source.function.__closure__ or (), strict=False
        )
    }
    outer = {**given, **closure, graph_parts.NAME: graph_parts}
    factory = ast.FunctionDef(
        name="_factory",
        args=ast.arguments(
            posonlyargs=[], args=[ast.arg(each) for each in outer], kwonlyargs=[], kw_defaults=[], defaults=[]
        ),
        body=[tree, ast.Return(ast.Name(name, ast.Load()))],
        decorator_list=[],
    )
    whole = ast.fix_missing_locations(ast.Module([ast.copy_location(factory, tree)], []))
    made: dict[str, Any] = {}
    # The file's own globals stay live; the line numbers in a traceback are the file's.
    exec(compile(whole, source.file, "exec"), source.function.__globals__, made)
    completed: Callable[..., Any] = made["_factory"](**outer)
    return completed


def _defaults(source: ForwardSource, tree: ast.FunctionDef) -> dict[str, Any]:
    """Default values are the ones that the function has, not evaluated a second time."""
    values: dict[str, Any] = {}
    for number, value in enumerate(source.function.__defaults__ or ()):
        values[f"_default_{number}"] = value
        tree.args.defaults[number] = ast.Name(f"_default_{number}", ast.Load())
    for place, argument in enumerate(tree.args.kwonlyargs):
        if tree.args.kw_defaults[place] is not None:
            values[f"_default_{argument.arg}"] = (source.function.__kwdefaults__ or {})[argument.arg]
            tree.args.kw_defaults[place] = ast.Name(f"_default_{argument.arg}", ast.Load())
    return values


def _drop_arguments(args: ast.arguments, names: set[str]) -> None:
    # Intermediates are required, so no default belongs to them.
    args.posonlyargs = [each for each in args.posonlyargs if each.arg not in names]
    args.args = [each for each in args.args if each.arg not in names]
    kept = [
        (each, default)
        for each, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if each.arg not in names
    ]
    args.kwonlyargs = [each for each, _ in kept]
    args.kw_defaults = [default for _, default in kept]
