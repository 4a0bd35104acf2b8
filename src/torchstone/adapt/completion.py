"""The body of an export with every asked-for result defined; see `graph.py` for what for.

Works on units in which each name is assigned once (`straight_line.py`), so a definition may be put wherever
its inputs exist. `Wiring` says what a name means when the body does not.
"""

from __future__ import annotations

import ast
from typing import Any

from torch import nn

from torchstone._errors import ModelError
from torchstone.adapt import graph_parts
from torchstone.adapt.forward_source import ForwardSource
from torchstone.adapt.straight_line import ModuleCall, Unit, units_of
from torchstone.adapt.wiring import Node, Wiring, node_named


class Completion:
    """Definitions and statements of one `forward`, emitted on demand."""

    def __init__(self, module: nn.Module, source: ForwardSource, wanted: tuple[str, ...]) -> None:
        self.module = module
        self.source = source
        self.wanted = wanted
        self.wiring = Wiring(module)
        args = source.tree.args
        self.parameters = [each.arg for each in (*args.posonlyargs, *args.args, *args.kwonlyargs)][1:]
        self.units = units_of(source.tree.body, self.parameters, self._path)
        self.calls = {unit.call.path: (unit, unit.call) for unit in reversed(self.units) if unit.call}
        self.maker = {name: unit for unit in self.units for name in unit.writes}
        self._restart()

    def whole_body(self) -> list[ast.stmt]:
        """Every statement of the body, with definitions before their first use."""
        self._restart()
        for unit in self.units:
            self._emit(unit)
        return self.out

    def results_only(self) -> list[ast.stmt]:
        """Only what the asked-for results need; returns them in a dict."""
        self._restart()
        for name in self.wanted:
            self._define(name)
        items = ", ".join(f"{name!r}: {name}" for name in self.wanted)
        self.out += _statements(f"return {{{items}}}", self.source.tree)
        return self.out

    def _restart(self) -> None:
        self.out: list[ast.stmt] = []
        self.done: set[int] = set()
        self.open: set[int] = set()
        self.notes: list[str] = []
        self.defined: set[str] = set()
        self.busy: list[str] = []

    def _path(self, function: ast.expr) -> str | None:
        """`self.blocks[0].attn` -> "blocks.0.attn" when that is a module of the model."""
        parts: list[str] = []
        node = function
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node, ast.Attribute):
                parts.insert(0, node.attr)
            elif isinstance(node.slice, ast.Constant):
                parts.insert(0, str(node.slice.value))
            else:
                return None
            node = node.value
        path = ".".join(parts)
        is_self = isinstance(node, ast.Name) and node.id == self.source.self_name
        return path if is_self and path in self.wiring.paths else None

    # Emitting

    def _emit(self, unit: Unit) -> None:
        if id(unit) in self.done:
            return
        if id(unit) in self.open:
            raise self._impossible("the body computes it from itself")
        self.open.add(id(unit))
        self._need(unit.reads - unit.writes)
        self.out += unit.statements
        self.done.add(id(unit))

    def _need(self, names: set[str]) -> None:
        for name in sorted(names):
            if name in self.wanted:
                self._define(name)
            elif name in self.maker:
                self._emit(self.maker[name])

    def _add(self, name: str, expression: str) -> str:
        self.out += _statements(f"{name} = {expression}", self.source.tree)
        self.defined.add(name)
        return name

    # Defining

    def _define(self, name: str) -> str:
        """Emit the value of an asked-for result, or of a node that one of them needs; its variable."""
        if name in self.defined:
            return name
        if name in self.busy:
            raise self._impossible(f"it depends on itself ({' -> '.join([*self.busy, name])})")
        self.busy.append(name)
        node = node_named(name)
        local = next((each for each in (node.name, f"{node.name}_out") if self._is_local(each, node)), None)
        if local is not None:
            self._emit(self.maker[local])
            self._add(name, f"{graph_parts.NAME}.first({local})")
        elif node.family == "residual":
            self._residual(name, node)
        elif node.family == "embedding":
            self._add(name, self._embedding(node.index))
        else:
            self._add(name, self._node(node))
        self.busy.pop()
        return name

    def _is_local(self, name: str, node: Node) -> bool:
        """Whether the body itself makes the node's result, under the node's name."""
        unit = self.maker.get(name)
        if unit is None or not isinstance(unit.statements[-1], (ast.Assign, ast.AugAssign)):
            return False
        # `residual_0 = x` only keeps the stream for later; a residual node adds.
        adds = isinstance(getattr(unit.statements[-1], "value", None), ast.BinOp)
        return self.wiring.path(node.family, node.index, node.kind) is None and (
            adds or node.family != "residual"
        )

    def _residual(self, name: str, node: Node) -> None:
        """x + branch: the stream is the residual before, or what the first branch takes before its norm."""
        branch = self.wiring.branch(node.index)
        if branch is None:
            raise self._impossible(f"the model has no attention or ffn for {node.name} to add")
        value = self._node(Node(branch[0], branch[1], branch[0]))
        stream = self._stream(node.index - 1)
        self._add(name, f"{stream} + {value}")

    def _stream(self, residual: int) -> str:
        """The variable of the residual stream after node `residual`; -1 is before the first branch."""
        if residual >= 0:
            return self._define(f"residual_{residual}_output")
        first = self.wiring.branch(0)
        path = None if first is None else self.wiring.path(*first)
        if path in self.calls:
            taken = self._before_norm(self.calls[path][1])
            if taken is not None:
                self._need({taken})
                return taken
        return self._embedding(0)

    def _before_norm(self, call: ModuleCall) -> str | None:
        """The variable that a call takes; if a norm made it, the one that the norm takes."""
        name = _first_name(call.node)
        seen: set[str] = set()
        while name is not None and name not in seen:
            seen.add(name)
            unit = self.maker.get(name)
            if unit is None:
                break
            alias = _alias_of(unit, name)
            if alias is not None:
                name = alias
            elif unit.call is not None and self.wiring.is_norm(unit.call.path):
                name = _first_name(unit.call.node)
            else:
                break
        return name

    def _node(self, node: Node) -> str:
        """The result of a module node: the body's own call of it, else a call that we write."""
        path = self.wiring.path(node.family, node.index, node.kind)
        if path is None:
            raise self._impossible(f"the model has no module {node.name}")
        if path in self.calls:
            unit, call = self.calls[path]
            self._emit(unit)
            return f"{graph_parts.NAME}.first({call.value})"
        variable = f"_node_{path.replace('.', '_')}"
        if variable not in self.defined:
            self._add(variable, self._written_call(node, path))
        return variable

    def _written_call(self, node: Node, path: str) -> str:
        if node.family == "attention":
            taken = self._normed(self.wiring.before("attention", node.index), path)
            return self._attention(path, taken)
        if node.family == "ffn":
            taken = self._normed(self.wiring.before("ffn", node.index), path)
        elif node.family == "norm":
            taken = self._normed_by(node, path)
        elif node.family == "layer":
            taken = self._define(f"{node.kind}_{node.index - 1}_output") if node.index else self._embedding(0)
        else:
            raise self._impossible(f"the body never calls self.{path}, so nothing says what goes into it")
        return f"{graph_parts.NAME}.first({self._self}.{_subscripted(path)}({taken}))"

    @property
    def _self(self) -> str:
        return self.source.self_name

    def _normed(self, residual: int, path: str) -> str:
        """What a branch takes: the stream, after the norm that sits between."""
        stream = self._stream(residual)
        for unit in self.units:
            if unit.call and self.wiring.is_norm(unit.call.path) and _first_name(unit.call.node) == stream:
                self._emit(unit)
                return unit.call.value
        if "." in path and self._block_has_norm(path):
            raise self._impossible(
                f"self.{path} lies in a block with norms of its own, and the body never calls it"
            )
        try:
            norm = self.wiring.norm_after(residual, self._wired_norms(), self._closing_norm())
        except LookupError as open_question:
            raise self._impossible(str(open_question)) from None
        if norm is None:
            return stream
        variable = f"_node_{norm.replace('.', '_')}"
        if variable not in self.defined:
            self._add(variable, f"{self._self}.{_subscripted(norm)}({stream})")
        return variable

    def _normed_by(self, node: Node, path: str) -> str:
        for residual in range(-1, self.wiring.count("attention") + self.wiring.count("ffn")):
            try:
                if self.wiring.norm_after(residual, self._wired_norms(), self._closing_norm()) == path:
                    return self._stream(residual)
            except LookupError as open_question:
                raise self._impossible(str(open_question)) from None
        raise self._impossible(f"nothing says what goes into {node.name}")

    def _block_has_norm(self, path: str) -> bool:
        block = path.rsplit(".", 1)[0]
        return any(
            self.wiring.is_norm(f"{block}.{name}")
            for name, _ in self.module.get_submodule(block).named_children()
        )

    def _wired_norms(self) -> list[tuple[int, int]]:
        """(norm, residual) for every numbered norm that the body applies to the stream itself."""
        pairs: list[tuple[int, int]] = []
        for path, (_, call) in self.calls.items():
            node = self.wiring.node_of(path) if self.wiring.is_norm(path) else None
            taken = _first_name(call.node)
            if node is None or taken is None:
                continue
            if taken in self.wanted and node_named(taken).family == "residual":
                pairs.append((node.index, node_named(taken).index))
            elif self._embedded() == taken:
                pairs.append((node.index, -1))
        return pairs

    def _closing_norm(self) -> bool:
        """Whether the model has a norm without a number: it closes the stack."""
        children = [name for name, _ in self.module.named_children()]
        return any(
            self.wiring.is_norm(name)
            and not name.startswith("embedding_")
            and self.wiring.node_of(name) is None
            for name in children
        )

    # Attention

    def _attention(self, path: str, taken: str) -> str:
        """Call an attention that the body leaves out, with the mask that the body gives to its others."""
        target = f"{self._self}.{_subscripted(path)}"
        template = next((call for each, (_, call) in self.calls.items() if self._is_attention(each)), None)
        if template is not None:
            return f"{graph_parts.NAME}.first({self._like(template, target, taken)})"
        if not isinstance(self.module.get_submodule(path), nn.MultiheadAttention):
            return f"{graph_parts.NAME}.first({target}({taken}))"
        keywords = ["need_weights=False"]
        mask = self._unused_mask(taken)
        if mask is not None:
            keywords.append(f"attn_mask={mask}")
            self.notes.append(f"{path} gets the mask {mask}, which the body makes and leaves unused")
        padding = next((each for each in self.parameters if each in ("attention_mask", "padding_mask")), None)
        if padding is not None and not any(padding in unit.reads for unit in self.units):
            like = f", {mask}" if mask else ""
            keywords.append(f"key_padding_mask={graph_parts.NAME}.padding({padding}{like})")
        return f"{target}({taken}, {taken}, {taken}, {', '.join(keywords)})[0]"

    def _is_attention(self, path: str) -> bool:
        node = self.wiring.node_of(path)
        return node is not None and node.family == "attention"

    def _like(self, template: ModuleCall, target: str, taken: str) -> str:
        """The template's call with another module and another input."""
        replaced = ast.unparse(template.node.args[0]) if template.node.args else ""
        arguments = []
        for each in template.node.args:
            text = ast.unparse(each)
            arguments.append(taken if text == replaced else text)
            if text != replaced:
                self._need(_names(each))
        for keyword in template.node.keywords:
            text = ast.unparse(keyword.value)
            is_input = keyword.arg in ("query", "key", "value", "x", "hidden_states")
            if not is_input:
                self._need(_names(keyword.value))
            arguments.append(f"{keyword.arg}={taken if is_input else text}" if keyword.arg else f"**{text}")
        return f"{target}({', '.join(arguments)})"

    def _unused_mask(self, taken: str) -> str | None:
        """A mask that the body or the model makes and nobody reads: it is meant for the missing attention."""
        read = {name for unit in self.units for name in unit.reads}
        for name, unit in self.maker.items():
            if "mask" in name and name not in read:
                self._emit(unit)
                return name
        text = ast.unparse(self.source.tree)
        for name, buffer in self.module.named_buffers(recurse=False):
            unread = f"{self._self}.{name}" not in text
            if "mask" in name and unread and buffer.dim() == 2 and buffer.shape[0] == buffer.shape[1]:
                return f"{graph_parts.NAME}.square({self._self}.{name}, {taken})"
        return None

    # Embedding

    def _embedding(self, index: int) -> str:
        """The variable of the embedded tokens: the body's own, else one that we compute."""
        own = self._embedded()
        if own is not None and index == 0:
            self._need({own})
            return own
        variable = f"_embedding_{index}"
        if variable in self.defined:
            return variable
        ids = next((each for each in self.parameters if each not in self.wanted and "mask" not in each), None)
        try:
            graph_parts.token_table(self.module, index)
        except AttributeError as missing:
            raise self._impossible(f"the model has {missing}") from None
        if ids is None:
            raise self._impossible("forward takes no tokens")
        return self._add(variable, f"{graph_parts.NAME}.embed({self._self}, {index}, {ids})")

    def _embedded(self) -> str | None:
        """The body's variable that holds tokens, positions and dropout together."""
        tables = {name for name, each in self.module.named_modules() if isinstance(each, nn.Embedding)}
        start = next(
            (
                call
                for path, (_, call) in self.calls.items()
                if path in tables and (_first_name(call.node) or "").split("__")[0] in self.parameters
            ),
            None,
        )
        if start is None:
            return None
        name = start.value
        while True:
            further = self._embedding_step(name)
            if further is None:
                return name
            name = further

    def _embedding_step(self, name: str) -> str | None:
        """The variable that the embedding becomes next: positions added, dropout, scaling, another name."""
        for unit in self.units:
            if name not in unit.reads or unit.returns or len(unit.writes) != 1:
                continue
            if unit.call is not None:
                module: Any = self.module.get_submodule(unit.call.path)
                part = isinstance(module, nn.Dropout) or unit.call.path.startswith("embedding_")
                if part and _first_name(unit.call.node) == name:
                    return unit.call.value
                continue
            statement = unit.statements[-1]
            plain = isinstance(statement, ast.Assign) and isinstance(statement.value, (ast.Name, ast.BinOp))
            if (plain or isinstance(statement, ast.AugAssign)) and not unit.reads & set(self.wanted):
                return next(iter(unit.writes))
        return None

    def _impossible(self, why: str) -> ModelError:
        name = next((each for each in self.busy if each in self.wanted), self.busy[0])
        line = next(
            (
                node.lineno
                for node in ast.walk(self.source.tree)
                if isinstance(node, ast.Name) and node.id == name
            ),
            self.source.tree.lineno,
        )
        at = ast.Name(name, lineno=line)
        return ModelError(
            f"parameter {name} of forward cannot be produced (line {line})",
            where=self.source.at(at),
            why=why,
            next="export the model again, or compute it in forward and drop the parameter",
        )


def _statements(text: str, at: ast.AST) -> list[ast.stmt]:
    body = ast.parse(text).body
    for statement in body:
        for node in ast.walk(statement):
            if hasattr(node, "lineno") or isinstance(node, (ast.expr, ast.stmt)):
                ast.copy_location(node, at)
    return body


def _first_name(call: ast.Call) -> str | None:
    """The variable that a call takes first."""
    taken = call.args[0] if call.args else next((each.value for each in call.keywords), None)
    return taken.id if isinstance(taken, ast.Name) else None


def _alias_of(unit: Unit, name: str) -> str | None:
    statement = unit.statements[-1]
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name) and unit.writes == {name}:
        return statement.value.id
    return None


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _subscripted(path: str) -> str:
    """blocks.0.attn -> blocks[0].attn"""
    text = ""
    for part in path.split("."):
        text += f"[{part}]" if part.isdigit() else f".{part}"
    return text.removeprefix(".")
