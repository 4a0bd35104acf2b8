"""Generation: a cache changes no text, a wrong cache is not used, the context keeps to the model's limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.library import LIBRARY
from zoo.spm import metaspace_tokenizer
from zoo.tiny import LIMIT as TINY_LIMIT
from zoo.tiny import TinyGPT

import torchstone as ts
from torchstone._errors import DataError, ModelError, UsageError
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.continuation import continue_text
from torchstone.adapt.generate import Sampling, choose, decode, generate
from torchstone.adapt.load import load
from torchstone.adapt.tokenizer_of import find_tokenizer
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.nn.gpt import GPT, GPTConfig

LIMIT = 24
SIZES = {"vocab_size": 258, "max_seq_len": LIMIT, "d_model": 16, "num_layers": 2, "num_heads": 2}
NAMES = {each.name: each for each in LIBRARY}


def gpt(**changes: Any) -> Adapter:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**SIZES, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)  # far from uniform, so that a wrong context shows
    return ts.adapt(model)


GPTS = {kind: gpt(positions=kind) for kind in ("learned", "rope")}
PROMPT = torch.tensor([[5, 9, 200, 31], [7, 7, 8, 250]])


@contextmanager
def lengths(adapter: Adapter) -> Iterator[list[int]]:
    """Sequence lengths that the model is called with."""
    seen: list[int] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        seen.append(ids.shape[1])

    handle = adapter.module.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", GPTS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_changes_no_token_not_even_beyond_the_limit(kind: str, temperature: float) -> None:
    adapter = GPTS[kind]
    options = {"max_new_tokens": LIMIT + 6, "temperature": temperature, "seed": 3}
    with lengths(adapter) as seen:
        cached = generate(adapter, PROMPT, **options)
    assert torch.equal(cached, generate(adapter, PROMPT, **options, use_cache=False))
    # The prompt, one step twice (with the cache and, to prove it, without), single tokens, then the window.
    assert seen[:5] == [4, 1, 5, 1, 1] and seen[-1] == LIMIT == max(seen)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
def test_the_cache_of_library_models_changes_no_token(name: str) -> None:
    record = NAMES[name]
    adapter = ts.adapt(record.build(), task=record.task)
    prompt = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(1))
    notes: list[str] = []
    sampling = Sampling(max_new_tokens=12, temperature=0)
    cached = torch.stack(list(decode(adapter, prompt, sampling, notes)))
    plain = Sampling(max_new_tokens=12, temperature=0, use_cache=False)
    assert notes == [] and torch.equal(cached, torch.stack(list(decode(adapter, prompt, plain))))


class Late(TinyGPT):
    """Its cache loses the newest token, so every cached step looks at the wrong place."""

    def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:  # type: ignore[override]
        output = super().forward(input_ids, None, past_key_values, use_cache)
        if output["past_key_values"]:
            output["past_key_values"] = [(k[:, :, :-1], v[:, :, :-1]) for k, v in output["past_key_values"]]
        return output


def test_a_wrong_cache_is_told_and_not_used() -> None:
    adapter = ts.adapt(Late(), task="causal-lm")
    prompt = torch.tensor([[3, 5, 7]])
    notes: list[str] = []
    made = torch.stack(list(decode(adapter, prompt, Sampling(max_new_tokens=9, temperature=0), notes)), dim=1)
    assert len(notes) == 1 and "cache disagrees" in notes[0]
    plain = generate(adapter, prompt, 9, temperature=0, use_cache=False)
    assert torch.equal(plain[:, 3:], made) and TINY_LIMIT > 12


def test_a_sequence_to_sequence_model_answers_until_its_decoder_is_full() -> None:
    record = NAMES["bart"]
    adapter = ts.adapt(record.build(), task="seq2seq")
    notes: list[str] = []
    limit = adapter.facts.max_seq_len
    assert limit is not None
    sampling = Sampling(max_new_tokens=limit + 9, temperature=0)
    made = list(decode(adapter, torch.tensor([[5, 6, 7]]), sampling, notes))
    assert len(made) == limit - 1 and "stopped" in notes[0]


def test_sliding_is_said_once() -> None:
    notes: list[str] = []
    list(decode(GPTS["rope"], PROMPT, Sampling(max_new_tokens=LIMIT + 3), notes))
    assert notes == [f"the model sees the last {LIMIT} tokens only"]


@given(st.integers(0, 99), st.floats(0.05, 1.0), st.integers(1, 9))
@settings(max_examples=40)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(seed: int, top_p: float, top_k: int) -> None:
    logits = 3 * torch.randn(1, 9, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    shares = logits.softmax(-1)[0]
    kept = shares.sort(descending=True).indices.tolist()
    size = next(n for n in range(1, 10) if float(shares[kept[:n]].sum()) >= min(top_p, 0.999999))
    drawn = {int(choose(logits, Sampling(top_p=top_p), generator)) for _ in range(40)}
    assert drawn <= set(kept[: size + 1]) and kept[0] in drawn | set(kept[:1])
    if top_p < float(shares[kept[0]]):
        assert drawn == {kept[0]}
    assert {int(choose(logits, Sampling(top_k=top_k), generator)) for _ in range(20)} <= set(kept[:top_k])


def test_rows_that_the_tokenizer_has_no_text_for_are_never_made() -> None:
    logits = torch.zeros(64, 9)
    logits[:, 5:] = 20.0
    made = choose(logits, Sampling(num_ids=5), torch.Generator().manual_seed(0))
    assert int(made.max()) < 5
    with pytest.raises(ModelError, match="no numbers"):
        choose(torch.full((1, 4), float("nan")), Sampling())


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


# --- text -------------------------------------------------------------------------------------------------


class Speller(nn.Module):
    """Says one fixed text, whatever it is given: the next byte follows from how many there are."""

    def __init__(self, text: str, end: bool = True) -> None:
        super().__init__()
        self.bytes = [*text.encode(), *([257] if end else [])]
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1]) % len(self.bytes)
        logits = torch.zeros(*input_ids.shape, 258)
        logits[:, torch.arange(input_ids.shape[1]), torch.tensor(self.bytes)[places]] = 9.0
        return logits + self.bias


def spell(text: str, prompt: str | list[int] = "x", *, stops: tuple[str, ...] = (), **options: Any) -> Any:
    adapter = ts.adapt(Speller(text), config={"vocab_size": 258}, task="causal-lm")
    heard: list[tuple[int, str]] = []
    num_samples = options.pop("num_samples", 1)
    sampling = Sampling(**{"max_new_tokens": 40, "temperature": 0.0, "eos_token_id": 257} | options)
    tokenizer = ByteTokenizer() if isinstance(prompt, str) else None
    made = continue_text(
        adapter, tokenizer, prompt, sampling, stops=stops, num_samples=num_samples,
        on_text=lambda sample, piece: heard.append((sample, piece)),
    )  # fmt: skip
    return made, heard


def test_a_text_ends_at_its_end_mark_at_a_stop_or_at_its_length() -> None:
    made, heard = spell("héllo", num_samples=2)
    assert [each.text for each in made.samples] == ["héllo"] * 2 and made.samples[0].ended == "eos"
    assert "".join(piece for sample, piece in heard if sample == 1) == "héllo"
    made, _ = spell("one two", stops=("wo",))
    assert (made.samples[0].text, made.samples[0].ended, made.samples[0].stop) == ("one t", "stop", "wo")
    made, heard = spell("hé", max_new_tokens=2)
    assert made.samples[0].ended == "length" and made.num_tokens == 2
    assert made.samples[0].text == "h\ufffd"


def test_without_a_tokenizer_ids_are_continued() -> None:
    made, _ = spell("abc", [97], max_new_tokens=3)
    assert made.samples[0].text is None and made.samples[0].ids == [97, 98, 99]
    with pytest.raises(DataError, match="token id 999"):
        spell("abc", [999])


def test_an_empty_prompt_begins_where_a_document_begins() -> None:
    made, _ = spell("ab", "")
    assert made.prompt_ids == [257]


def test_prompts_of_hub_models_get_the_marks_of_their_own_template(tmp_path: Path) -> None:
    """A folder in the library's form: its tokenizer begins every text with <s>."""
    model = NAMES["llama"].build()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(metaspace_tokenizer(["a cat sat"] * 3)._library.to_str())
    loaded, tokenizer = load(f"hf:{tmp_path}"), find_tokenizer(f"hf:{tmp_path}")
    assert tokenizer is not None
    sampling = Sampling(max_new_tokens=3, temperature=0, num_ids=tokenizer.vocab_size)
    plain = continue_text(loaded.adapter, tokenizer, "a cat", sampling)
    marked = continue_text(loaded.adapter, tokenizer, "a cat", sampling, marked=True)
    assert marked.prompt_ids == [1, *plain.prompt_ids] and len(marked.samples[0].ids) == 3
