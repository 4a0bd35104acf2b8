"""The task follows head, config and behaviour; what is undecided is called so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchstone as ts

V = 17


class Text(nn.Module):
    def __init__(self, out: int = V) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(V, 8), nn.Linear(8, out)

    def mix(self, ids: Tensor) -> Tensor:
        return self.table(ids)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(input_ids))


class Causal(Text):
    def mix(self, ids: Tensor) -> Tensor:
        return self.table(ids).cumsum(1)


class Bidirectional(Text):
    def mix(self, ids: Tensor) -> Tensor:
        return self.table(ids) + self.table(ids).mean(1, keepdim=True)


class LeakyForCausalLM(Bidirectional):
    pass


class HonestForMaskedLM(Bidirectional):
    pass


class OneCausalBlock(Bidirectional):
    """A causal attention beside a leak: a causal model with a fault."""

    def __init__(self, flag: bool) -> None:
        super().__init__()
        self.flag = flag

    def mix(self, ids: Tensor) -> Tensor:
        x = super().mix(ids)[:, None]
        if self.flag:
            return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)[:, 0]
        scores = (x @ x.transpose(-1, -2)).masked_fill(torch.ones(2 * x.shape[2:3]).triu(1) > 0, -1e9)
        return (scores.softmax(-1) @ x)[:, 0]


class Pooled(Text):
    def mix(self, ids: Tensor) -> Tensor:
        return self.table(ids).mean(1)


class Types(Bidirectional):
    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return super().forward(input_ids)


class Pair(Text):
    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        return self.head(self.table(decoder_input_ids) + self.table(input_ids).mean(1, keepdim=True))


class Image(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.flatten(1)[:, :3]


class ImageAndText(Text):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return self.head(self.table(input_ids)) + pixel_values.mean()


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 10)

    def forward(self, input_values: Tensor) -> Tensor:
        return self.conv(input_values[:, None]).transpose(1, 2)


@pytest.mark.parametrize(
    ("model", "kind", "certain"),
    [
        (Causal(), "causal-lm", True),
        (LeakyForCausalLM(), "causal-lm", True),
        (OneCausalBlock(True), "causal-lm", True),
        (OneCausalBlock(False), "causal-lm", True),
        (HonestForMaskedLM(), "masked-lm", True),
        (Types(), "masked-lm", True),
        (Bidirectional(), "causal-lm", False),
        (Pooled(out=3), "classification", True),
        (Text(out=8), "encoder", True),
        (Pair(), "seq2seq", True),
        (Image(), "vision", True),
        (ImageAndText(), "multimodal", True),
        (Sound(), "audio", True),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else str(each),
)
def test_guess(model: nn.Module, kind: str, certain: bool) -> None:
    adapter = ts.adapt(model)
    assert (adapter.task.kind, adapter.guess.certain) == (kind, certain), adapter.guess.reasons
    assert adapter.guess.reasons


def test_config_speaks_too() -> None:
    assert ts.adapt(Bidirectional(), {"is_decoder": True}).guess.certain
    masked = ts.adapt(Bidirectional(), {"architectures": ["SomethingForMaskedLM"]})
    assert masked.task.kind == "masked-lm"


def test_the_user_has_the_last_word() -> None:
    adapter = ts.adapt(Bidirectional(), task="masked-lm")
    assert adapter.task.kind == "masked-lm" and adapter.guess.certain
    spec = ts.TaskSpec.text_classification(num_classes=3)
    assert ts.adapt(Bidirectional(), task=spec).task is spec
