"""What the adapter costs per forward, as a ratio to the direct call of the same model.

    python bench/adapter.py                 # prints ratios, writes bench/results/adapter.json
    python bench/adapter.py --rounds 10     # quicker, noisier

Each round times both ways back to back, in changing order, on one thread and in CPU time, so that a busy
machine disturbs little; the figure is the median of the rounds' ratios. `builder` compares an export whose
`forward` asks for intermediates with the same network written by hand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torchstone as ts

BATCH, LENGTH, WIDTH, VOCABULARY, LAYERS = 4, 128, 192, 4096, 4
LIMITS = {"plain": 1.01, "dict": 1.01, "library": 1.01, "builder": 1.05, "builder-train": 1.05}


@dataclass(frozen=True)
class Ratio:
    name: str
    ratio: float
    low: float
    """A quarter of the rounds lies below."""
    high: float
    limit: float
    direct_ms: float
    overhead_us: float


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm_1(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.ffn(self.norm_2(x))


class Plain(nn.Module):
    """ids -> logits, as people write it."""

    def __init__(self, as_dict: bool = False) -> None:
        super().__init__()
        self.as_dict = as_dict
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions(torch.arange(length))
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        logits = self.head(self.norm(x))
        return {"logits": logits} if self.as_dict else logits


class ByHand(nn.Module):
    """The network of the builder's export, with its modules, written by hand."""

    def __init__(self, export: nn.Module) -> None:
        super().__init__()
        self.m = export

    def forward(self, ids: Tensor) -> Tensor:
        m: Any = self.m
        length = ids.shape[1]
        x = m.embedding_0_token(ids) + m.embedding_0_pos(torch.arange(length))
        x = m.embedding_0_dropout(x)
        mask = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
        for k in range(2):
            h = getattr(m, f"layernorm_{2 * k}")(x)
            x = x + getattr(m, f"mhsa_{k}")(h, h, h, attn_mask=mask, need_weights=False)[0]
            x = x + getattr(m, f"ffn_{k}")(getattr(m, f"layernorm_{2 * k + 1}")(x))
        return m.output_0(m.layernorm_4(x))


def cases() -> dict[str, tuple[nn.Module, Callable[[Tensor], Any], Callable[[Tensor], Any]]]:
    """name -> (module, direct call, call through the adapter)."""
    made: dict[str, tuple[nn.Module, Callable[[Tensor], Any], Callable[[Tensor], Any]]] = {}
    torch.manual_seed(0)
    for name, module in (("plain", Plain()), ("dict", Plain(as_dict=True)), ("library", _library())):
        if module is not None:
            module.eval()
            made[name] = (module, _direct(module), _adapted(module))
    for name in ("builder", "builder-train"):
        export = ts.load(str(Path(__file__).parents[1] / "examples" / "builder_export")).module
        export.train(name == "builder-train")
        made[name] = (export, ByHand(export).train(export.training), _adapted(export))
    return made


def _library() -> nn.Module | None:
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ModuleNotFoundError:
        return None
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=3 * WIDTH, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _direct(module: nn.Module) -> Callable[[Tensor], Any]:
    return lambda ids: module(input_ids=ids)


def _adapted(module: nn.Module) -> Callable[[Tensor], Any]:
    adapter = ts.adapt(module)
    return lambda ids: adapter(input_ids=ids)


def compare(
    name: str, direct: Callable[[Tensor], Any], adapted: Callable[[Tensor], Any], rounds: int
) -> Ratio:
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    ratios, times, extra = [], [], []
    with torch.set_grad_enabled(name.endswith("-train")):
        for turn in range(rounds + 3):
            ways = (direct, adapted) if turn % 2 == 0 else (adapted, direct)
            spent = {way: _seconds(way, ids) for way in ways}
            if turn >= 3:
                ratios.append(spent[adapted] / spent[direct])
                times.append(spent[direct])
                extra.append(spent[adapted] - spent[direct])
    low, _, high = statistics.quantiles(ratios, n=4)
    return Ratio(
        name,
        round(statistics.median(ratios), 4),
        round(low, 4),
        round(high, 4),
        LIMITS[name],
        round(1e3 * statistics.median(times), 3),
        round(1e6 * statistics.median(extra), 1),
    )


def microseconds_per_call(calls: int = 10_000) -> float:
    """The adapter's own cost, on a model that does next to nothing."""
    module = nn.Sequential(nn.Embedding(16, 4))
    adapter, ids = ts.adapt(module), torch.zeros(1, 4, dtype=torch.long)
    spent = []
    with torch.no_grad():
        for call in (lambda: module(ids), lambda: adapter(input_ids=ids)):
            start = time.process_time()
            for _ in range(calls):
                call()
            spent.append(time.process_time() - start)
    return round(1e6 * (spent[1] - spent[0]) / calls, 2)


def _seconds(way: Callable[[Tensor], Any], ids: Tensor) -> float:
    start = time.process_time()
    way(ids)
    way(ids)
    return (time.process_time() - start) / 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "adapter.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name, (_, direct, adapted) in cases().items():
        # An export is smaller than the others, so its rounds are shorter and noisier.
        rounds = 3 * options.rounds if name.startswith("builder") else options.rounds
        found.append(compare(name, direct, adapted, rounds))
        each = found[-1]
        spread = f"quartiles {each.low:.4f} {each.high:.4f}, at most {each.limit}"
        cost = f"direct {each.direct_ms:.2f} ms, overhead {each.overhead_us:.0f} us"
        print(f"{each.name:14} {each.ratio:.4f}  ({spread})  {cost}")
    alone = microseconds_per_call()
    print(f"the adapter alone: {alone:.1f} us per call")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    record = {"bench": "adapter", "torch": torch.__version__, "threads": 1, "us_per_call": alone}
    options.json.write_text(
        json.dumps({**record, "ratios": [asdict(each) for each in found]}, indent=2) + "\n"
    )
    # On a busy machine the median wanders; three quarters of the rounds above the limit are no accident.
    return 0 if all(each.low <= each.limit for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
