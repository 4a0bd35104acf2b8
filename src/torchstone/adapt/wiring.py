"""Which module a graph node's name means, and what comes before it in a standard stack.

    x = embedding_0                       residual_0 = x + mhsa_0(norm(x))
    ffn_0 takes norm(residual_0)          residual_1 = residual_0 + ffn_0
    mhsa_1 takes norm(residual_1)         and so on

`norm` is the norm node that sits between, if any: the body's own wiring says which, else the numbering.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from torch import nn

FAMILIES: dict[str, tuple[str, ...]] = {
    "attention": ("mhsa", "attention", "self_attention", "self_attn", "attn", "mha", "multihead_attention"),
    "ffn": ("ffn", "mlp", "feed_forward", "feedforward", "ff", "fc"),
    "norm": ("layernorm", "layer_norm", "norm", "ln", "rmsnorm", "rms_norm"),
    "layer": ("layer", "block", "encoder_layer", "decoder_layer"),
    "embedding": ("embedding", "embeddings", "embed"),
    "residual": ("residual", "add", "skip"),
}
_FAMILY_OF = {word: family for family, words in FAMILIES.items() for word in words}
_STACKS = (
    "layers",
    "blocks",
    "transformer.h",
    "h",
    "encoder.layer",
    "encoder.layers",
    "decoder.layers",
    "layer",
)
_NODE = re.compile(r"^(?P<kind>.+)_(?P<index>\d+)(_output)?$")


@dataclass(frozen=True)
class Node:
    """A node of the exported graph."""

    family: str
    index: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.index}"


def node_named(name: str) -> Node:
    """`mhsa_0_output` or `mhsa_0` -> the node; the kind is its own family when no rule knows it."""
    match = _NODE.match(name)
    if match is None:
        raise ValueError(f"{name} names no node")
    kind = match["kind"]
    return Node(_FAMILY_OF.get(kind, kind), int(match["index"]), kind)


class Wiring:
    """The modules of an export, by node."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.paths = {path for path, _ in module.named_modules() if path}

    def path(self, family: str, index: int, kind: str = "") -> str | None:
        """Dotted name of the module of a node, or None."""
        words = (kind, *FAMILIES.get(family, ())) if kind else FAMILIES.get(family, ())
        for word in words:
            for candidate in (f"{word}_{index}", f"{word}{index}", f"{word}s.{index}", f"{word}.{index}"):
                if candidate in self.paths and not isinstance(
                    self.module.get_submodule(candidate), nn.ModuleList
                ):
                    return candidate
        for stack in _STACKS:
            if family == "layer" and f"{stack}.{index}" in self.paths:
                return f"{stack}.{index}"
            for word in FAMILIES.get(family, ()):
                if family in ("attention", "ffn") and f"{stack}.{index}.{word}" in self.paths:
                    return f"{stack}.{index}.{word}"
        return None

    def node_of(self, path: str) -> Node | None:
        """The node that a module's dotted name means: `ffn_1` or `blocks.1.ffn` -> ffn 1."""
        if _NODE.match(path) and "." not in path:
            return node_named(path)
        for family in ("attention", "ffn", "norm", "layer"):
            for index in range(self.count(family)):
                if self.path(family, index) == path:
                    return Node(family, index, family)
        return None

    def count(self, family: str) -> int:
        index = 0
        while self.path(family, index) is not None:
            index += 1
        return index

    def is_norm(self, path: str) -> bool:
        module = self.module.get_submodule(path)
        word = re.split(r"[._]", path.lower())
        named = any(part.startswith(("norm", "layernorm", "rmsnorm", "ln")) for part in word)
        return (
            isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or "norm" in type(module).__name__.lower() or named
        )

    def branch(self, residual: int) -> tuple[str, int] | None:
        """(family, index) of the module that residual node `residual` adds: attention and ffn alternate."""
        attentions, ffns = self.count("attention"), self.count("ffn")
        if attentions and ffns:
            family, index = ("attention", residual // 2) if residual % 2 == 0 else ("ffn", residual // 2)
        else:
            family, index = ("attention" if attentions else "ffn"), residual
        return (family, index) if self.path(family, index) is not None else None

    def before(self, family: str, index: int) -> int:
        """Number of the residual node whose output a branch takes; -1 means the embedding."""
        if self.count("attention") and self.count("ffn"):
            return 2 * index - 1 if family == "attention" else 2 * index
        return index - 1

    def norm_after(self, residual: int, seen: list[tuple[int, int]], closing: bool) -> str | None:
        """The numbered norm that follows residual node `residual` (-1: the embedding), or None.

        `seen` holds (norm, residual) pairs that the body itself wires, `closing` whether an unnumbered norm
        closes the stack. Raises LookupError where the numbering leaves it open.
        """
        norms = self.count("norm")
        if norms == 0:
            return None
        branches = self.count("attention") + self.count("ffn")
        offsets = {norm - node for norm, node in seen}
        if len(offsets) > 1:
            raise LookupError("the body wires its norms in two different ways")
        if offsets:
            offset = offsets.pop()
        elif norms == branches + 1 or (norms == branches and closing) or self._norm_opens(norms):
            offset = 1
        elif norms in (branches, branches - 1):
            # One after each residual, or one between each two branches.
            offset = 0
        else:
            raise LookupError(
                f"{norms} norms for {branches} branches, and the body does not say where they sit"
            )
        return self.path("norm", residual + offset) if residual + offset >= 0 else None

    def _norm_opens(self, norms: int) -> bool:
        """Whether modules are registered in graph order with a norm before the first attention."""
        order = [
            node.family
            for name, _ in self.module.named_children()
            if (node := self.node_of(name)) and node.family in ("attention", "ffn", "norm")
        ]
        grouped = sum(a != b for a, b in itertools.pairwise(order)) < len(set(order))
        first = next((path for path in ("attention", "ffn") if self.count(path)), None)
        return bool(order) and not grouped and order[0] == "norm" and first is not None and norms > 0
