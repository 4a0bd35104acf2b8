"""With GPT-2's weights our GPT computes what the library everybody uses computes, and takes no wrong file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import torchstone as ts
from torchstone._errors import ModelError, TorchstoneError
from torchstone.adapt.generate import generate
from torchstone.cli.main import run
from torchstone.nn.circuit import applied, sites
from torchstone.nn.gpt import GPT

transformers = pytest.importorskip("transformers", reason="pip install 'torchstone[hf]' for the reference")

V, L = 97, 24
SIZES = {
    "vocab_size": V, "n_positions": L, "n_embd": 24, "n_layer": 3, "n_head": 4,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
# (their name, ours); their linear layers keep weights as (in, out).
BLOCK = [
    ("ln_1", "attention_norm"),
    ("attn.c_attn", "attention.qkv"),
    ("attn.c_proj", "attention.out"),
    ("ln_2", "mlp_norm"),
    ("mlp.c_fc", "mlp.widen"),
    ("mlp.c_proj", "mlp.out"),
]


def library_model(kind: str = "GPT2LMHeadModel", **changes: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.GPT2Config(**SIZES | changes)).eval()
    with torch.no_grad():  # off the initial values, so that every bias and norm weight counts
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def theirs() -> Any:
    return library_model()


@pytest.fixture(scope="module")
def folder(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(place)
    return place


@pytest.fixture
def ours(folder: Path) -> GPT:
    return ts.load(f"gpt2:{folder}").module.eval()


def ids(*shape: int) -> Tensor:
    return torch.randint(1, V, shape, generator=torch.Generator().manual_seed(1))


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def pairs(theirs: Any, ours: GPT) -> list[tuple[nn.Module, nn.Module]]:
    body = theirs.transformer
    found = [
        (body.wte, ours.token_embedding),
        (body.wpe, ours.position_embedding),
        (body.ln_f, ours.final_norm),
    ]
    for their_block, our_block in zip(body.h, ours.blocks, strict=True):
        found += [(their_block.get_submodule(one), our_block.get_submodule(other)) for one, other in BLOCK]
    return found


def test_logits_loss_and_every_gradient_are_those_of_the_library(theirs: Any, ours: GPT) -> None:
    batch = ids(3, L)
    expected = theirs(batch, labels=batch)
    logits = ours(batch).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    close(logits, expected.logits)
    close(loss, expected.loss)
    theirs.zero_grad()
    expected.loss.backward()
    loss.backward()
    for their_part, our_part in pairs(theirs, ours):
        their_gradient, our_gradient = their_part.weight.grad, our_part.weight.grad
        is_turned = type(their_part).__name__ == "Conv1D"
        close(our_gradient, their_gradient.T if is_turned else their_gradient)
        if getattr(their_part, "bias", None) is not None:
            close(our_part.bias.grad, their_part.bias.grad)
    assert sum(each.numel() for each in theirs.parameters()) == sum(e.numel() for e in ours.parameters())


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_theirs(theirs: Any, ours: GPT, side: str) -> None:
    batch, mask = ids(3, 20), torch.ones(3, 20, dtype=torch.long)
    mask[1, slice(0, 8) if side == "left" else slice(12, 20)] = 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(batch, attention_mask=mask, position_ids=places).logits
    close(ours(batch, attention_mask=mask).logits[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def test_decoding_with_a_cache_is_theirs(theirs: Any, ours: GPT) -> None:
    batch, past, cache = ids(2, 12), None, None
    for piece in batch.split([5, 1, 1, 5], dim=1):
        expected = theirs(piece, past_key_values=past, use_cache=True)
        found = ours(piece, past_key_values=cache, use_cache=True)
        close(found.logits, expected.logits)
        past, cache = expected.past_key_values, found.past_key_values
    for (their_keys, their_values), (keys, values) in zip(
        [(each.keys, each.values) for each in past.layers], cache, strict=True
    ):
        close(keys, their_keys)
        close(values, their_values)


def test_greedy_text_is_theirs(theirs: Any, folder: Path) -> None:
    prompt = ids(3, 5)
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=15, do_sample=False, eos_token_id=None
    )
    loaded = ts.load(f"gpt2:{folder}")
    assert torch.equal(generate(loaded.adapter, prompt, 15, temperature=0), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "changes", "overrides"),
    [
        ("GPT2LMHeadModel", {"activation_function": "gelu", "n_inner": 40, "layer_norm_epsilon": 0.1}, {}),
        ("GPT2LMHeadModel", {"tie_word_embeddings": False}, {}),
        ("GPT2LMHeadModel", {"dtype": "float16"}, {"vocab_multiple": 64, "max_seq_len": L}),
        ("GPT2Model", {}, {"attention": {"name": "sdpa"}}),
    ],
    ids=["other-settings", "untied", "halves-and-padded", "body"],
)
def test_every_form_of_the_library_is_taken(
    kind: str, changes: dict[str, Any], overrides: dict[str, Any], tmp_path: Path
) -> None:
    model = library_model(kind, **{key: value for key, value in changes.items() if key != "dtype"})
    model = model.half().float() if "dtype" in changes else model
    half = model.half() if "dtype" in changes else model
    half.save_pretrained(tmp_path, max_shard_size="20KB")  # several files and an index
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model.float()
    loaded = ts.load(f"gpt2:{tmp_path}", overrides=overrides)
    found = loaded.module.eval()(ids(2, L)).logits
    if kind == "GPT2Model":
        expected = model(ids(2, L)).last_hidden_state @ model.wte.weight.T
    else:
        expected = model(ids(2, L)).logits
    close(found, expected)
    assert loaded.notes[0] == f"weights of {tmp_path}"


# --- what does not fit --------------------------------------------------------------------------


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def rewrite(copy: Path, **tensors: Tensor | None) -> None:
    path = copy / "model.safetensors"
    kept = {key: value for key, value in (load_file(path) | tensors).items() if value is not None}
    save_file(kept, path)


def test_tensors_that_do_not_fit_are_named(copy: Path) -> None:
    rewrite(
        copy,
        **{
            "transformer.h.1.mlp.c_fc.weight": torch.zeros(96, 24),
            "transformer.h.2.ln_2.bias": None,
            "transformer.h.3.ln_1.weight": torch.zeros(24),
            "transformer.h.0.attn.bias": torch.zeros(1, 1, L, L),  # older files keep their mask
        },
    )
    with pytest.raises(ModelError, match="3 tensors do not fit") as caught:
        ts.load(f"gpt2:{copy}")
    assert caught.value.why == (
        "missing: h.2.ln_2.bias (our blocks.2.mlp_norm.bias); unexpected: h.3.ln_1.weight; "
        "of another shape: h.1.mlp.c_fc.weight is (96, 24), not (24, 96)"
    )


def test_a_mechanism_that_needs_more_parameters_is_refused_and_one_that_does_not_is_taken(
    folder: Path,
) -> None:
    with pytest.raises(ModelError, match="3 tensors") as caught:
        ts.load(f"gpt2:{folder}", overrides={"attention": {"name": "gated"}})
    assert "missing: h.0.attention.gate.weight (our blocks.0.attention.gate.weight)" in caught.value.why
    ra = ts.load(f"gpt2:{folder}", overrides={"attention": {"name": "ra", "alpha": 0.0}}).module.eval()
    close(ra(ids(2, L)).logits, ts.load(f"gpt2:{folder}").module.eval()(ids(2, L)).logits)


def test_a_tied_model_takes_no_head_of_its_own(copy: Path) -> None:
    table = load_file(copy / "model.safetensors")["transformer.wte.weight"]
    rewrite(copy, **{"lm_head.weight": table.clone()})
    ts.load(f"gpt2:{copy}")
    rewrite(copy, **{"lm_head.weight": table + 1})
    with pytest.raises(ModelError, match=r"lm_head.weight of the file is not its wte.weight"):
        ts.load(f"gpt2:{copy}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "holds no GPT-2: its model_type is 'llama'"),
        ({"activation_function": "silu"}, "our GPT has no activation_function=silu"),
        ({"scale_attn_by_inverse_layer_idx": True}, "has no scale_attn_by_inverse_layer_idx=True"),
    ],
)
def test_another_model_is_refused(copy: Path, changes: dict[str, Any], said: str) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=said):
        ts.load(f"gpt2:{copy}")


def test_a_folder_without_weights_or_none_at_all_is_said(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read"):
        ts.load(f"gpt2:{copy}")
    (copy / "model.safetensors").unlink()
    with pytest.raises(TorchstoneError, match=r"no model.safetensors in .*copy"):
        ts.load(f"gpt2:{copy}")
    with pytest.raises(TorchstoneError, match=r"no config.json in .*nowhere"):
        ts.load(f"gpt2:{copy / 'nowhere'}")


def test_another_size_has_random_weights_and_says_so(folder: Path) -> None:
    loaded = ts.load(f"gpt2:{folder}", overrides={"num_layers": 1})
    assert loaded.notes == ["sizes were overridden, so the weights are random"]
    assert len(loaded.module.blocks) == 1


# --- by the doors of every model ----------------------------------------------------------------


def test_it_is_trained_and_generates_and_needs_its_folder_no_more(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = ts.load("gpt2:copy")
    sampling = ["--temperature", "0", "--max-new-tokens", "3"]
    assert run(["generate", "gpt2:copy", "--ids", "5,6,7", *sampling, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["notes"][0] == "weights of copy"
    np.arange(4000, dtype=np.uint16).__mod__(90).tofile(tmp_path / "tokens.bin")
    wishes = ["data.sequence_length=16", "optim.learning_rate=1e-9"]
    sets = [word for wish in wishes for word in ("--set", wish)]
    line = ["train", "gpt2:copy", "--data", "tokens.bin", "--run-dir", "runs/one", "--max-steps", "2", *sets]
    assert run([*line, "--json"]) == 0
    capsys.readouterr()
    shutil.rmtree(copy)
    again = ts.load("runs/one")
    assert again.fingerprint == before.fingerprint
    close(again.module.eval()(ids(2, L)).logits, before.module.eval()(ids(2, L)).logits)


@torch.no_grad()
def test_the_same_keys_and_values_can_be_closed_in_both(theirs: Any, ours: GPT) -> None:
    whole = ours(ids(3, L)).logits
    masks = [(torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) > 0.4).float() for _ in range(6)]
    with applied(sites(ours), masks), applied(sites(theirs), masks):
        close(ours(ids(3, L)).logits, theirs(ids(3, L)).logits)
        assert not torch.allclose(ours(ids(3, L)).logits, whole, atol=1e-3)
