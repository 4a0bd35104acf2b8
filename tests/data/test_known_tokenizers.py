"""The table of known tokenizers: consistent in itself, and with the defaults of the transformers library."""

from __future__ import annotations

import pytest

from torchstone.data.known_tokenizers import KNOWN_TOKENIZERS, candidates, the_one_for

# Classes of transformers whose defaults are those of the checkpoint that the family is named after.
DEFAULTS = {
    "gpt2": "GPT2Config", "gpt-j": "GPTJConfig", "gpt-neo": "GPTNeoConfig", "gpt-neox": "GPTNeoXConfig",
    "opt": "OPTConfig", "bloom": "BloomConfig", "t5": "T5Config", "mt5": "MT5Config",
    "llama-2": "LlamaConfig",
    "mistral-v0.1": "MistralConfig", "gemma": "GemmaConfig", "gemma-2": "Gemma2Config",
    "qwen2": "Qwen2Config",
    "phi-1": "PhiConfig", "phi-3-mini": "Phi3Config", "falcon": "FalconConfig", "mamba": "MambaConfig",
    "starcoder2": "Starcoder2Config", "whisper": "WhisperConfig", "clip": "CLIPTextConfig",
    "bert-uncased": "BertConfig", "roberta": "RobertaConfig", "albert": "AlbertConfig",
    "xlnet": "XLNetConfig",
    "deberta-v3": "DebertaV2Config", "deberta": "DebertaConfig", "electra": "ElectraConfig",
    "mpnet": "MPNetConfig", "modernbert": "ModernBertConfig", "gpt": "OpenAIGPTConfig", "bart": "BartConfig",
    "opus-mt-en-de": "MarianConfig", "distilbert-uncased": "DistilBertConfig",
}  # fmt: skip


def test_there_are_forty_families_each_with_its_source() -> None:
    complete = [each for each in KNOWN_TOKENIZERS if each.num_tokens is not None]
    assert len(complete) >= 40
    assert len({each.same_ids for each in complete}) >= 40
    for each in KNOWN_TOKENIZERS:
        assert each.source
        assert each.rows
        assert each.hub.count("/") == 1


@pytest.mark.parametrize("known", KNOWN_TOKENIZERS, ids=lambda known: known.name)
def test_no_token_lies_beyond_the_rows(known) -> None:
    assert all(known.num_tokens is None or known.num_tokens <= rows for rows in known.rows)
    assert all(known in candidates(rows) for rows in known.rows)


def test_families_of_one_vocabulary_agree_on_its_size() -> None:
    for each in KNOWN_TOKENIZERS:
        if each.vocabulary:
            assert KNOWN_TOKENIZERS.get(
                "llama-2" if each.vocabulary == "llama" else each.vocabulary
            ).num_tokens in (
                each.num_tokens,
                None,
            )


@pytest.mark.parametrize("name", DEFAULTS)
def test_rows_are_those_of_the_library_s_defaults(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'torchstone[hf]'")
    assert getattr(transformers, DEFAULTS[name])().vocab_size in KNOWN_TOKENIZERS.get(name).rows


@pytest.mark.parametrize(
    ("rows", "hub"),
    [
        (50257, "openai-community/gpt2"),
        (50304, "openai-community/gpt2"),
        (51200, "Salesforce/codegen-350M-mono"),
        (50432, "EleutherAI/gpt-neox-20b"),
        (50688, "EleutherAI/pythia-70m"),
        (50280, "state-spaces/mamba-130m-hf"),
        (50272, "facebook/opt-125m"),
        (32064, "microsoft/Phi-3-mini-4k-instruct"),
        (32128, "google-t5/t5-base"),
        (128256, "meta-llama/Meta-Llama-3-8B"),
        (250880, "bigscience/bloom-560m"),
        (30522, "google-bert/bert-base-uncased"),
    ],
)
def test_padded_embeddings_resolve_to_their_tokenizer(rows: int, hub: str) -> None:
    found = the_one_for(rows)
    assert found is not None
    assert found.hub == hub


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (32000, {"llama-2", "mistral-v0.1", "tinyllama", "xlnet"}),
        (152064, {"qwen", "qwen1.5", "qwen2", "qwen2.5"}),
        (151936, {"qwen", "qwen1.5", "qwen2", "qwen2.5"}),
        (256000, {"gemma", "gemma-2", "command-r"}),
        (50304, {"nanogpt", "pythia"}),
    ],
)
def test_sizes_of_several_families_list_them(rows: int, names: set[str]) -> None:
    assert {each.name for each in candidates(rows)} == names
    assert (the_one_for(rows) is None) == (rows != 50304)


def test_an_unknown_size_has_no_candidates() -> None:
    assert candidates(12345) == []
    assert the_one_for(12345) is None
