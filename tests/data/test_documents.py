"""Documents of one block that do not see each other: the same as each document alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import DataError
from torchstone.data.byte_tokenizer import EOS, ByteTokenizer
from torchstone.data.config import DataConfig
from torchstone.data.documents import Boundaries
from torchstone.data.pack import TokenBlocks, pack
from torchstone.data.source import read_source
from torchstone.nn.gpt import GPT, GPTConfig

DOCUMENTS = st.lists(st.lists(st.integers(2, 9), max_size=9), min_size=1, max_size=9)


def stream(documents: list[list[int]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[int]]:
    """Tokens with 1 behind each document, where they end, and the document of each token."""
    flat = [each for document in documents for each in [*document, 1]]
    numbers = [number for number, document in enumerate(documents) for _ in [*document, 1]]
    ends = np.cumsum([len(document) + 1 for document in documents])
    return np.array([*flat, 2, 2], np.uint16), ends, [*numbers, len(documents), len(documents)]


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 12), st.booleans())
def test_each_token_knows_its_document(documents: list[list[int]], T: int, known: bool) -> None:
    tokens, ends, expected = stream(documents)
    blocks = TokenBlocks(tokens, T, ends=ends if known else None)
    blocks.separate(causal=True, eos_token_id=1)
    for index in range(len(blocks)):
        batch = blocks.batch([index])
        mine = np.array(expected[index * T : (index + 1) * T])
        same = mine[:, None] == mine[None, :]
        assert batch["attention_mask"][0, 0].tolist() == np.tril(same).tolist()
        begins = [0, *(np.flatnonzero(mine[1:] != mine[:-1]) + 1).tolist()]
        places = [place - max(each for each in begins if each <= place) for place in range(len(mine))]
        assert batch["position_ids"][0].tolist() == places
        assert (batch["labels"][0] == -100).nonzero()[:, 0].tolist() == begins


def test_the_places_are_those_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.txt").write_text("word " * (number + 1))
    corpus = read_source(str(folder), DataConfig(validation_split=0.0))
    blocks = pack(corpus, ByteTokenizer(), 16, cache_dir=tmp_path).train
    assert blocks.ends is not None
    assert blocks.ends.tolist() == (np.flatnonzero(blocks.tokens == EOS) + 1).tolist()
    assert len(blocks.ends) == 9


def test_without_any_knowledge_of_ends_it_is_an_error() -> None:
    with pytest.raises(DataError, match="nobody knows"):
        TokenBlocks(np.arange(9, dtype=np.uint16), 4).separate(causal=True)
    assert Boundaries(None, 3).numbers(0, np.array([1, 3, 2, 3])).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_logits_and_loss_are_those_of_separate_documents(positions: str) -> None:
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=12, max_seq_len=24, d_model=16, num_layers=2, num_heads=2, positions=positions
    )
    model = GPT(config).double().eval()
    documents = [[2, 3, 4], [5], [6, 7, 8, 9, 2, 3], [4, 4, 4, 4], [9, 8]]
    tokens, ends, _ = stream(documents)
    blocks = TokenBlocks(tokens[:21], 21, ends=ends)
    blocks.separate(causal=True)
    batch = blocks.batch([0])
    labels = batch.pop("labels")
    with torch.no_grad():
        together = model(**batch).logits[0]
        alone = torch.cat([model(torch.tensor([[*document, 1]])).logits[0] for document in documents])
        plain = model(batch["input_ids"]).logits[0]
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)
    assert not torch.allclose(together, plain, rtol=0, atol=1e-3)
    loss = torch.nn.functional.cross_entropy(together[:-1], labels[0, 1:], reduction="sum")
    expected, start = 0.0, 0
    for document in documents:
        ids = torch.tensor([*document, 1])
        logits = alone[start : start + len(ids) - 1]
        expected += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
        start += len(ids)
    assert abs(loss.item() - expected) < 1e-10
