"""Both forms of config.json say the same, and a contradiction is told instead of settled by order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone._errors import ModelError
from torchstone.adapt.config_file import ALIASES, aliases, flatten, read_config


def test_flat():
    config = flatten({"vocab_size": 50, "nhead": 2, "model_name": "CustomTransformer"})
    assert config.values == {"vocab_size": 50, "nhead": 2}
    assert config.model_name == "CustomTransformer"


def test_node_list():
    config = flatten(
        {
            "version": "1.0",
            "model_name": "Mine",
            "nodes": [
                {"id": "embedding_0", "params": {"vocab_size": 50, "seq_length": 16, "d_model": 8}},
                {"id": "mhsa_0", "params": {"d_model": 8, "num_heads": 2}},
                {"id": "residual_0"},
            ],
        }
    )
    assert config.values == {"vocab_size": 50, "max_seq_len": 16, "d_model": 8, "num_heads": 2}
    assert config.notes == []


@given(st.permutations([("embedding_0", 64), ("mhsa_0", 32), ("ffn_0", 64)]))
def test_contradicting_nodes_are_told_in_any_order(nodes: list[tuple[str, int]]):
    config = flatten({"nodes": [{"id": name, "params": {"d_model": width}} for name, width in nodes]})
    assert "d_model" not in config.values
    assert all(word in config.notes[0] for word in ("d_model", "mhsa_0 says 32", "embedding_0 says 64"))


def test_the_top_outranks_the_nodes():
    nodes = [{"id": "a", "params": {"seq_length": 16}}, {"id": "b", "params": {"seq_length": 32}}]
    config = flatten({"block_size": 8, "nodes": nodes})
    assert config.values == {"block_size": 8}
    assert config.notes == []


@pytest.mark.parametrize("content", ["", "[1]", "{", '"text"'])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
    )
)
def test_nothing_in_nodes_can_break_the_reader(nodes: object):
    flatten(json.loads(json.dumps({"nodes": nodes})))


def test_no_word_stands_for_two_things():
    words = [word for group in ALIASES for word in group]
    assert len(words) == len(set(words))
    assert "n_embd" in aliases("d_model")
