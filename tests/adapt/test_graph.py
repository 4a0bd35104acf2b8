"""An export that asks for intermediates equals the network that a person writes by hand from its modules."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchstone as ts
from torchstone._errors import ModelError

WIDTH, VOCABULARY = 16, 23
EXAMPLE = Path(__file__).parents[2] / "examples" / "builder_export" / "model.py"


def export(folder: Path, source: str, name: str = "model") -> nn.Module:
    """Write a `model.py`, import it, make its model."""
    file = folder / f"{name}.py"
    file.write_text("import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n" + source)
    return imported(file).CustomTransformer().eval()


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"export_{abs(hash(str(file)))}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def builder_file(
    blocks: int, opening: bool, mask: str, pos: str, dropout: float, in_body: bool, norms: bool = True
) -> str:
    """A `model.py` of a builder: `opening` puts a norm before the first attention (pre-norm)."""
    offset = 1 if opening else 0
    count = 2 * blocks + offset if norms else 0
    init = [
        f"self.embedding_0_token = nn.Embedding({VOCABULARY}, {WIDTH})",
        f"self.embedding_0_pos = nn.Embedding(12, {WIDTH})"
        if pos == "embedding"
        else f"self.embedding_0_pos = nn.Parameter(torch.randn(1, 12, {WIDTH}))",
        f"self.embedding_0_dropout = nn.Dropout({dropout})",
        f"self.output_0 = nn.Linear({WIDTH}, {VOCABULARY})",
        *(f"self.layernorm_{k} = nn.LayerNorm({WIDTH})" for k in range(count)),
    ]
    for k in range(blocks):
        init += [
            f"self.mhsa_{k} = nn.MultiheadAttention({WIDTH}, 4, dropout={dropout}, batch_first=True)",
            f"self.ffn_{k} = nn.Sequential(nn.Linear({WIDTH}, 32), nn.GELU(), nn.Dropout({dropout}),"
            f" nn.Linear(32, {WIDTH}))",
        ]
    positions = (
        "self.embedding_0_pos(torch.arange(T))" if pos == "embedding" else "self.embedding_0_pos[:, :T]"
    )
    body = []
    if in_body:
        body += [
            "x = self.embedding_0_token(input_0_tokens)",
            f"x = x + {positions}",
            "x = self.embedding_0_dropout(x)",
        ]
        stream = "x"
        for k in range(blocks):
            taken = stream
            if norms and (opening or k):
                body.append(f"x = self.layernorm_{2 * k - 1 + offset}({stream})")
                taken = "x"
            body.append(f"a, _ = self.mhsa_{k}({taken}, {taken}, {taken}{mask})")
            taken = f"residual_{2 * k}_output"
            if norms:
                body.append(f"x = self.layernorm_{2 * k + offset}({taken})")
                taken = "x"
            body.append(f"f = self.ffn_{k}({taken})")
            stream = f"residual_{2 * k + 1}_output"
    last = f"residual_{2 * blocks - 1}_output"
    body.append(f"y = self.layernorm_{count - 1}({last})" if norms else f"y = {last}")
    asked = ["input_0_tokens"]
    for k in range(blocks):
        asked += [
            f"mhsa_{k}_output",
            f"residual_{2 * k}_output",
            f"ffn_{k}_output",
            f"residual_{2 * k + 1}_output",
        ]
    lines = ["class CustomTransformer(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    lines += [f"        {each}" for each in init]
    lines += ["", f"    def forward(self, {', '.join(asked)}):", "        B, T = input_0_tokens.shape"]
    if "causal" in mask:
        lines.append("        causal = torch.ones(T, T, dtype=torch.bool).triu(1)")
    lines += [f"        {each}" for each in body]
    return "\n".join([*lines, "        return self.output_0(y)", ""])


def by_hand(m: Any, ids: Tensor, blocks: int, opening: bool, causal: bool, norms: bool = True) -> Tensor:
    """The same network as a person writes it."""
    T = ids.shape[1]
    pos = m.embedding_0_pos
    x = m.embedding_0_token(ids) + (pos(torch.arange(T)) if isinstance(pos, nn.Module) else pos[:, :T])
    x = m.embedding_0_dropout(x)
    mask = torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None
    normed = iter([getattr(m, f"layernorm_{k}") for k in range(2 * blocks + opening)] if norms else [])
    h = next(normed)(x) if opening and norms else x
    for k in range(blocks):
        x = x + getattr(m, f"mhsa_{k}")(h, h, h, attn_mask=mask)[0]
        h = next(normed)(x) if norms else x
        x = x + getattr(m, f"ffn_{k}")(h)
        h = next(normed)(x) if norms else x
    return m.output_0(h)


MASKS = {"no mask": "", "boolean": ", attn_mask=causal", "flag": ", attn_mask=causal, is_causal=True"}


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("opening", [True, False], ids=["pre-norm", "norm-after"])
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("pos", ["embedding", "parameter"])
def test_equals_the_network_written_by_hand(
    tmp_path: Path, blocks: int, opening: bool, mask: str, pos: str
) -> None:
    torch.manual_seed(blocks)
    model = export(tmp_path, builder_file(blocks, opening, MASKS[mask], pos, 0.2, in_body=True))
    adapter, ids = ts.adapt(model), torch.randint(VOCABULARY, (2, 9))
    expected = by_hand(model, ids, blocks, opening, causal=mask != "no mask")
    torch.testing.assert_close(adapter(input_ids=ids).main, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("blocks", "opening", "norms"), [*itertools.product([1, 2, 3], [True, False], [True]), (2, False, False)]
)
def test_body_without_calls_is_wired_by_its_names(
    tmp_path: Path, blocks: int, opening: bool, norms: bool
) -> None:
    """Nothing but the last residual is read: modules, numbers of norms and the graph's order say the rest."""
    model = export(tmp_path, builder_file(blocks, opening, "", "embedding", 0.1, in_body=False, norms=norms))
    ids = torch.randint(VOCABULARY, (2, 9))
    expected = by_hand(model, ids, blocks, opening, causal=False, norms=norms)
    torch.testing.assert_close(ts.adapt(model)(input_ids=ids).main, expected, rtol=0, atol=1e-6)


def test_bound_intermediates_give_the_same_as_the_call(tmp_path: Path) -> None:
    model = export(tmp_path, builder_file(2, True, MASKS["boolean"], "embedding", 0.1, in_body=True))
    adapter, batch = ts.adapt(model), {"input_ids": torch.randint(VOCABULARY, (2, 9))}
    args, kwargs = adapter.bind(batch)
    assert not args and set(kwargs) == {each.name for each in adapter.signature}
    assert torch.equal(model(**kwargs), adapter(**batch).main)


def test_meaning_of_the_names(tmp_path: Path) -> None:
    """What a caller would compute for each asked-for result, on its own."""
    m: Any = export(tmp_path, builder_file(1, False, "", "embedding", 0.0, in_body=True))
    ids = torch.randint(VOCABULARY, (2, 9))
    _, kwargs = ts.adapt(m).bind({"input_ids": ids})
    x = m.embedding_0_token(ids) + m.embedding_0_pos(torch.arange(9))
    attended = m.mhsa_0(x, x, x)[0]
    expected = {
        "mhsa_0_output": attended,
        "residual_0_output": x + attended,
        "ffn_0_output": m.ffn_0(m.layernorm_0(x + attended)),
        "residual_1_output": x + attended + m.ffn_0(m.layernorm_0(x + attended)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(kwargs[name], value, rtol=0, atol=1e-6)


def test_training_uses_the_dropout_of_the_body(tmp_path: Path) -> None:
    """One forward draws one dropout mask per module, so the residual stream is the body's own."""
    model = export(tmp_path, builder_file(2, True, MASKS["boolean"], "embedding", 0.3, in_body=True)).train()
    adapter, ids = ts.adapt(model), torch.randint(VOCABULARY, (2, 9))
    torch.manual_seed(5)
    ours = adapter(input_ids=ids).main
    torch.manual_seed(5)
    assert torch.equal(ours, by_hand(model, ids, 2, True, causal=True))


def test_each_module_runs_once_and_gradients_flow(tmp_path: Path) -> None:
    model = export(tmp_path, builder_file(2, True, "", "embedding", 0.0, in_body=True))
    adapter, calls = ts.adapt(model), {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1))
    seen: list[nn.Module] = []
    model.register_forward_hook(lambda module, *_: seen.append(module))
    adapter(input_ids=torch.randint(VOCABULARY, (2, 9))).main.sum().backward()
    assert set(calls.values()) == {1} and set(calls) == {name for name, _ in model.named_children()}
    assert seen == [model], "hooks of the model itself see the call"
    assert all(each.grad is not None for each in model.parameters())
    assert "forward" not in vars(model), "the model comes back as it was"


def test_compiled_export_takes_the_same_intermediates(tmp_path: Path) -> None:
    model = export(tmp_path, builder_file(2, True, MASKS["boolean"], "embedding", 0.1, in_body=True))
    ids = torch.randint(VOCABULARY, (2, 9))
    # Without gradients: the compiler touches .grad of what we pass in, and warns of itself.
    with torch.no_grad():
        expected = ts.adapt(model)(input_ids=ids).main
        compiled = ts.adapt(torch.compile(model, backend="eager"))(input_ids=ids).main
    torch.testing.assert_close(compiled, expected)


def test_second_call_is_fresh(tmp_path: Path) -> None:
    model = export(tmp_path, builder_file(1, True, "", "embedding", 0.0, in_body=True))
    adapter = ts.adapt(model)
    first, second = torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 5, dtype=torch.long)
    before = adapter(input_ids=first).main
    assert not torch.equal(before, adapter(input_ids=second).main)
    assert torch.equal(before, adapter(input_ids=first).main)


SPEC_4 = f"""
class CustomTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_0_token = nn.Embedding({VOCABULARY}, {WIDTH})
        self.mhsa_0 = nn.MultiheadAttention({WIDTH}, 4, batch_first=True)
        self.layernorm_0 = nn.LayerNorm({WIDTH})
        self.ffn_0 = nn.Sequential(nn.Linear({WIDTH}, 32), nn.GELU(), nn.Linear(32, {WIDTH}))
        self.head = nn.Linear({WIDTH}, {VOCABULARY})

    def forward(self, input_0_tokens, mhsa_0_output, residual_0_output):
        x = self.layernorm_0(residual_0_output)
        x = self.ffn_0(x)
        return self.head(x)
"""


def test_body_that_reads_a_residual_and_calls_no_attention(tmp_path: Path) -> None:
    m: Any = export(tmp_path, SPEC_4)
    ids = torch.randint(VOCABULARY, (2, 7))
    x = m.embedding_0_token(ids)
    expected = m.head(m.ffn_0(m.layernorm_0(x + m.mhsa_0(x, x, x)[0])))
    torch.testing.assert_close(ts.adapt(m)(input_ids=ids).main, expected, rtol=0, atol=1e-6)


SPEC_6 = f"""
class CustomTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_0_token = nn.Embedding({VOCABULARY}, {WIDTH})
        self.mhsa_0 = nn.MultiheadAttention({WIDTH}, 4, batch_first=True)
        self.layernorm_0 = nn.LayerNorm({WIDTH})
        self.ffn_0 = nn.Linear({WIDTH}, {WIDTH})
        self.layernorm_1 = nn.LayerNorm({WIDTH})
        self.mhsa_1 = nn.MultiheadAttention({WIDTH}, 4, batch_first=True)
        self.head = nn.Linear({WIDTH}, {VOCABULARY})

    def forward(self, input_0_tokens, mhsa_0_output, residual_0_output, ffn_0_output, mhsa_1_output,
                residual_1_output, attention_mask=None):
        x = residual_1_output + mhsa_1_output
        return self.head(x)
"""


def test_attention_mask_reaches_attentions_that_the_body_leaves_out(tmp_path: Path) -> None:
    m: Any = export(tmp_path, SPEC_6)
    ids, mask = torch.randint(VOCABULARY, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[0, 5:] = 0

    def hand(hidden: Tensor | None) -> Tensor:
        x = m.embedding_0_token(ids)
        r0 = x + m.mhsa_0(x, x, x, key_padding_mask=hidden)[0]
        r1 = r0 + m.ffn_0(m.layernorm_0(r0))
        h = m.layernorm_1(r1)
        return m.head(r1 + m.mhsa_1(h, h, h, key_padding_mask=hidden)[0])

    adapter = ts.adapt(m)
    torch.testing.assert_close(adapter(input_ids=ids).main, hand(None), rtol=0, atol=1e-6)
    masked = adapter(input_ids=ids, attention_mask=mask).main
    torch.testing.assert_close(masked, hand(mask == 0), rtol=0, atol=1e-6)


def test_unused_causal_mask_is_meant_for_the_missing_attention(tmp_path: Path) -> None:
    source = SPEC_4.replace(
        "        x = self.layernorm_0(residual_0_output)",
        "        T = input_0_tokens.shape[1]\n"
        "        causal_mask = torch.ones(T, T, dtype=torch.bool).triu(1)\n"
        "        x = self.layernorm_0(residual_0_output)",
    )
    m: Any = export(tmp_path, source)
    ids = torch.randint(VOCABULARY, (2, 7))
    x = m.embedding_0_token(ids)
    attended = m.mhsa_0(x, x, x, attn_mask=torch.ones(7, 7, dtype=torch.bool).triu(1))[0]
    expected = m.head(m.ffn_0(m.layernorm_0(x + attended)))
    adapter = ts.adapt(m)
    torch.testing.assert_close(adapter(input_ids=ids).main, expected, rtol=0, atol=1e-6)
    assert any("causal_mask" in note for note in adapter.notes)


SPEC_5 = f"""
class CustomTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_0_token = nn.Embedding({VOCABULARY}, {WIDTH})
        self.embedding_0_pos = nn.Embedding(12, {WIDTH})
        self.embedding_0_dropout = nn.Dropout(0.1)
        self.mhsa_0 = nn.MultiheadAttention({WIDTH}, 4, batch_first=True)
        self.layernorm_0 = nn.LayerNorm({WIDTH})
        self.ffn_0 = nn.Linear({WIDTH}, {WIDTH})
        self.layernorm_1 = nn.LayerNorm({WIDTH})
        self.output_0 = nn.Linear({WIDTH}, {VOCABULARY})

    def forward(self, input_0_tokens, mhsa_0_output, residual_0_output, residual_1_output):
        positions = torch.arange(input_0_tokens.shape[1])
        x = self.embedding_0_token(input_0_tokens) + self.embedding_0_pos(positions)
        x = self.embedding_0_dropout(x)
        attended, _ = self.mhsa_0(x, x, x)
        normed_0 = self.layernorm_0(residual_0_output)
        ffn = self.ffn_0(normed_0)
        normed_1 = self.layernorm_1(residual_1_output)
        return output_0_logits
"""


def line_of(folder: Path, text: str) -> int:
    lines = (folder / "model.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_returned_name_that_nothing_assigns(tmp_path: Path) -> None:
    model = export(tmp_path, SPEC_5)
    with pytest.raises(ModelError) as caught:
        ts.adapt(model)
    told = str(caught.value)
    line = line_of(tmp_path, "return output_0_logits")
    assert "output_0_logits" in told and f"model.py:{line}" in told and "nothing assigns" in told


def test_mended_export_runs(tmp_path: Path) -> None:
    m: Any = export(tmp_path, SPEC_5.replace("return output_0_logits", "return self.output_0(normed_1)"))
    ids = torch.randint(VOCABULARY, (2, 7))
    x = m.embedding_0_token(ids) + m.embedding_0_pos(torch.arange(7))
    r0 = x + m.mhsa_0(x, x, x)[0]
    expected = m.output_0(m.layernorm_1(r0 + m.ffn_0(m.layernorm_0(r0))))
    torch.testing.assert_close(ts.adapt(m)(input_ids=ids).main, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("parameter", "why"),
    [
        ("mhsa_3_output", "no module mhsa_3"),
        ("residual_4_output", "no attention or ffn for residual_4"),
        ("gate_0_output", "no module gate_0"),
    ],
)
def test_parameter_that_nothing_can_produce(tmp_path: Path, parameter: str, why: str) -> None:
    source = SPEC_4.replace("residual_0_output):", f"residual_0_output, {parameter}):")
    source = source.replace("return self.head(x)", f"return self.head(x + {parameter})")
    with pytest.raises(ModelError) as caught:
        ts.adapt(export(tmp_path, source))
    assert parameter in caught.value.what and why in caught.value.why
    assert f"(line {line_of(tmp_path, 'return self.head')})" in caught.value.what


def test_circle_is_told(tmp_path: Path) -> None:
    """The attention that the residual adds reads the residual."""
    source = SPEC_4.replace("x = self.ffn_0(x)", "a, _ = self.mhsa_0(x, x, x)")
    with pytest.raises(ModelError, match="computes it from itself"):
        ts.adapt(export(tmp_path, source))


def test_norms_that_no_rule_can_place(tmp_path: Path) -> None:
    more = "".join(f"        self.layernorm_{k} = nn.LayerNorm({WIDTH})\n" for k in (1, 2, 3))
    source = SPEC_4.replace("        self.head = ", more + "        self.head = ")
    source = source.replace("x = self.layernorm_0(residual_0_output)", "x = residual_1_output")
    source = source.replace("x = self.ffn_0(x)", "pass").replace("residual_0_output):", "residual_1_output):")
    with pytest.raises(ModelError, match="4 norms for 2 branches"):
        ts.adapt(export(tmp_path, source))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("x = self.ffn_0(x)", "x = self.ffn_7(x)", "self.ffn_7"),
        ("x = self.ffn_0(x)", "x = self.ffn_0(x) + later\n        later = x", "assigned only later"),
        ("return self.head(x)", "return self.head(missing)", "missing"),
    ],
)
def test_certain_failures_are_told_before_running(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        ts.adapt(export(tmp_path, SPEC_4.replace(old, new)))


def test_a_branch_that_may_not_run_is_no_fault(tmp_path: Path) -> None:
    maybe = "if self.training and False:\n            return nowhere\n        return self.head(x)"
    source = SPEC_4.replace("return self.head(x)", maybe)
    ts.adapt(export(tmp_path, source))


def test_variables_assigned_twice_keep_their_values(tmp_path: Path) -> None:
    """The first residual adds to the embedding although the body has reused its name since."""
    source = SPEC_5.replace("return output_0_logits", "return self.output_0(normed_1)")
    renamed = source.replace(
        "attended, _ = self.mhsa_0(x, x, x)", "x, _ = self.mhsa_0(x, x, x)\n        x += 1.0"
    )
    m: Any = export(tmp_path, renamed)
    ids = torch.randint(VOCABULARY, (2, 7))
    x = m.embedding_0_token(ids) + m.embedding_0_pos(torch.arange(7))
    # `x += 1.0` changes the attention's result in place, before the residual is read.
    r0 = x + m.mhsa_0(x, x, x)[0] + 1.0
    expected = m.output_0(m.layernorm_1(r0 + m.ffn_0(m.layernorm_0(r0))))
    torch.testing.assert_close(ts.adapt(m)(input_ids=ids).main, expected, rtol=0, atol=1e-6)


def test_the_example(tmp_path: Path) -> None:
    model = imported(EXAMPLE).CustomTransformer().eval()
    adapter, ids = ts.adapt(model), torch.randint(4096, (2, 33))
    expected = by_hand(model, ids, 2, True, causal=True)
    torch.testing.assert_close(adapter(input_ids=ids).main, expected, rtol=0, atol=1e-5)
    assert adapter.is_causal_lm and adapter.guess.certain
    assert (adapter.facts.vocab_size, adapter.facts.max_seq_len) == (4096, 128)
