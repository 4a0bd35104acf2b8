"""`config.json` in both of its forms, made flat: what the model's author says about its sizes.

The flat form is taken as it is. In the node list, which a visual builder writes, the parameters of
all nodes are gathered; a key on which two nodes disagree is left out and the disagreement is told, because
whichever of them were taken would be a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import ModelError

# What describes the export itself and is no size of the model.
_ABOUT_THE_EXPORT = ("nodes", "edges", "version", "model_name")

# Words that say the same thing. An exact name wins over every alias.
ALIASES: tuple[tuple[str, ...], ...] = (
    ("vocab_size", "n_vocab", "vocabulary_size"),
    (
        *("max_seq_len", "max_seq_length", "seq_length", "seq_len", "max_length", "max_len", "block_size"),
        *("context_length", "context_size", "max_position_embeddings", "n_positions", "n_ctx"),
    ),
    ("d_model", "hidden_size", "n_embd", "embed_dim", "embedding_dim", "model_dim", "dim"),
    ("num_layers", "n_layer", "n_layers", "num_hidden_layers", "depth", "num_blocks"),
    ("num_heads", "nhead", "n_head", "n_heads", "num_attention_heads"),
    ("d_ff", "dim_feedforward", "intermediate_size", "ffn_dim", "n_inner"),
    ("dropout", "dropout_rate", "dropout_p", "hidden_dropout_prob"),
    ("num_classes", "n_classes", "num_labels"),
)
_GROUP = {word: group for group in ALIASES for word in group}


def aliases(name: str) -> tuple[str, ...]:
    """Other words for `name`, in a fixed order."""
    return tuple(word for word in _GROUP.get(name, ()) if word != name)


@dataclass(frozen=True)
class ModelFile:
    """A `config.json` that was read: flat values, the class it names, what disagreed."""

    values: dict[str, Any]
    model_name: str | None = None
    conflicts: tuple[tuple[str, str], ...] = ()
    """(key, "embedding_0 says 64, mhsa_0 says 32"), for keys that are therefore not in `values`."""

    @property
    def notes(self) -> list[str]:
        return [f"config.json: the nodes disagree on {key}: {story}" for key, story in self.conflicts]


def read_config(path: Path) -> ModelFile:
    """Read and flatten a `config.json`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as broken:
        raise ModelError("config.json is not valid JSON", where=str(path), why=str(broken)) from None
    if not isinstance(content, dict):
        raise ModelError(
            "config.json must hold one object", where=str(path), why=f"it holds a {type(content).__name__}"
        )
    return flatten(content)


def flatten(content: Mapping[str, Any]) -> ModelFile:
    """Either form of config.json -> flat values; what is said at the top outranks the nodes."""
    top = {key: value for key, value in content.items() if key not in _ABOUT_THE_EXPORT}
    said, conflicts = _gather(content.get("nodes"))
    model_name = content.get("model_name")
    return ModelFile(
        values={**{key: value for key, value in said.items() if _settles(key, top) is None}, **top},
        model_name=model_name if isinstance(model_name, str) and model_name else None,
        conflicts=tuple((key, story) for key, story in conflicts if _settles(key, top) is None),
    )


def _settles(key: str, top: Mapping[str, Any]) -> str | None:
    """The top-level word, if any, that says what `key` would say."""
    return next((word for word in (key, *aliases(key)) if word in top), None)


def _gather(nodes: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    said: dict[str, dict[str, Any]] = {}
    for number, node in enumerate(_as_list(nodes)):
        if not isinstance(node, Mapping):
            continue
        parameters = node.get("params") or node.get("parameters") or {}
        if not isinstance(parameters, Mapping):
            continue
        name = str(node.get("id", f"node {number}"))
        for key, value in parameters.items():
            # The builder calls the length of the position table seq_length on its nodes.
            word = "max_seq_len" if key == "seq_length" else str(key)
            said.setdefault(word, {})[name] = value
    values: dict[str, Any] = {}
    conflicts: list[tuple[str, str]] = []
    for key, by_node in said.items():
        first = next(iter(by_node.values()))
        if all(value == first for value in by_node.values()):
            values[key] = first
        else:
            conflicts.append((key, ", ".join(f"{node} says {value!r}" for node, value in by_node.items())))
    return values, conflicts


def _as_list(nodes: Any) -> list[Any]:
    if isinstance(nodes, Mapping):
        return [{"id": name, **node} for name, node in nodes.items() if isinstance(node, Mapping)]
    return list(nodes) if isinstance(nodes, list) else []
