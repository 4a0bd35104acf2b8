"""Tables of pages: models, optimizers, pruning, mechanisms from their registries, studies from their files.

python docs/tables.py            # writes them into the pages
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from torchstone.nn.attention.record import AttentionRecord
from torchstone.nn.attention.registry import ATTENTIONS
from torchstone.nn.config import AttentionConfig, MLPConfig
from torchstone.nn.costs import costs
from torchstone.nn.gpt import GPTConfig
from torchstone.nn.mlp.record import MLPRecord
from torchstone.nn.mlp.registry import MLPS
from torchstone.nn.zoo import ZOO, ZooModel
from torchstone.optim.pruning.methods import METHODS
from torchstone.optim.pruning.ramp import RAMPS
from torchstone.optim.registry import OPTIMIZERS, OptimizerRecord
from torchstone.study.study_file import available, read_study

DOCS = Path(__file__).parent


def optimizers() -> str:
    head = ("name", "what it is", "state, bytes per parameter", "FSDP", "source")
    return table(
        head,
        ((f"`{r.name}`", r.summary, _bytes(r), "no" if r.no_fsdp else "yes", r.source) for r in OPTIMIZERS),
    )


def _bytes(record: OptimizerRecord) -> str:
    if record.rest_bytes is None:
        return str(record.state_bytes)
    return f"{record.state_bytes} in hidden matrices, {record.rest_bytes} elsewhere"


def methods() -> str:
    head = ("name", "score; the lowest go", "reads", "memory, bytes per weight", "source")
    return table(
        head,
        (
            (
                f"`{m.name}`",
                m.summary,
                "Adam's state" if m.by_state else {"summed": "gradients"}.get(m.keeps or "", "weights"),
                f"1 (mask){' + 4' if m.keeps else ''}",
                m.source,
            )
            for m in METHODS
        ),
    )


def ramps() -> str:
    rows = ((f"`{r.name}`", r.summary, f"{r.share(0.25):.0%}, {r.share(0.5):.0%}", r.source) for r in RAMPS)
    return table(("name", "sparsity grows", "at a quarter, at half of the way", "source"), rows)


TOKENS = 1024
"""Length of the sequences that costs are told for, in GPT-2 small."""


def attentions() -> str:
    head = ("name", "what it is", "parameters", "FLOPs", "cache", "T x T", "rope", "source")
    plain = ATTENTIONS.get("sdpa").flops(GPTConfig(), 0, TOKENS)
    rows = []
    for r in ATTENTIONS:
        config = GPTConfig(attention=AttentionConfig(name=r.name))
        layers = range(config.num_layers)
        rows.append(
            (
                f"`{r.name}`",
                r.summary,
                _mean(r.parameters(config, each) for each in layers),
                _ratio((r.flops(config, each, TOKENS) for each in layers), plain),
                _mean(r.cache(config, each, TOKENS) / TOKENS for each in layers),
                "yes" if r.materialises(config) else "no",
                "no" if r.rotary_width(config) is None else "yes",
                r.source,
            )
        )
    return table(head, rows)


def mlps() -> str:
    head = ("name", "what it is", "parameters", "FLOPs", "cache", "reads", "source")
    plain = MLPS.get("dense").flops(GPTConfig(), 0, TOKENS)
    rows = []
    for r in MLPS:
        config = GPTConfig(mlp=MLPConfig(name=r.name))
        layers = range(config.num_layers)
        reads = [name for name, is_read in (("weights", r.reads_weights(config)),) if is_read]
        rows.append(
            (
                f"`{r.name}`",
                r.summary,
                _mean(r.parameters(config, each) for each in layers),
                _ratio((r.flops(config, each, TOKENS) for each in layers), plain),
                _mean(r.cache(config, each, TOKENS) / TOKENS for each in layers),
                ", ".join(reads),
                r.source,
            )
        )
    return table(head, rows)


def equations(registry: Iterable[AttentionRecord | MLPRecord]) -> str:
    return table(("name", "equation"), ((f"`{r.name}`", f"`{r.equation}`") for r in registry))


def studies() -> str:
    rows = []
    for name, path in available():
        study = read_study(path)
        arms = (
            f"{len(study.steps)} steps, {study.steps[0].id} to {study.steps[-1].id}"
            if study.kind == "ablation"
            else " x ".join(str(len(axis.values)) for axis in study.axes)
        )
        rows.append((f"`{name}`", arms, str(len(study.seeds)), study.describe))
    return table(("name", "arms", "seeds", "what it asks"), rows)


def language_models() -> str:
    head = ("TARGET", "what it is", "parameters", "FLOPs per token", "cache, bytes per token", "source")
    rows = []
    for model in ZOO:
        if model.config is not None:
            cost = costs(model.config)
            per_token = f"{cost.flops_per_token / 1e6:,.1f} M at {cost.tokens:,}"
            cache = f"{2 * cost.cache_numbers_per_token:,.0f}"
            rows.append(
                (f"`zoo:{model.name}`", model.summary, f"{cost.parameters:,}", per_token, cache, model.source)
            )
    return table(head, rows)


def image_models() -> str:
    head = ("TARGET", "what it is", "parameters", "FLOPs per image", "source")
    return table(head, (_image_row(model) for model in ZOO if model.config is None))


def _image_row(model: ZooModel) -> tuple[str, ...]:
    with torch.device("meta"):  # shapes without memory
        module, config = model.build()
        image = torch.empty(1, config["num_channels"], config["image_size"], config["image_size"])
        with FlopCounterMode(display=False) as counter:
            module.eval()(image)
    parameters = sum(each.numel() for each in module.parameters())
    flops = f"{counter.get_total_flops() / 1e6:,.1f} M"
    return f"`zoo:{model.name}`", model.summary, f"{parameters:,}", flops, model.source


def _number(of_layers: Iterable[float]) -> float:
    found = list(of_layers)
    return sum(found) / len(found)


def _ratio(of_layers: Iterable[float], plain: float) -> str:
    return f"{_number(of_layers) / plain:.2f}"


def _mean(of_layers: Iterable[float]) -> str:
    return f"{_number(of_layers):,.0f}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


TABLES = {
    "models.md": {"language models": language_models, "image models": image_models},
    "optimizers.md": {"optimizers": optimizers},
    "pruning.md": {"methods": methods, "ramps": ramps},
    "mechanisms.md": {
        "attentions": attentions,
        "attention equations": lambda: equations(ATTENTIONS),
        "mlps": mlps,
        "MLP equations": lambda: equations(MLPS),
    },
    "studies.md": {"studies": studies},
}


def renewed(page: str, text: str) -> str:
    """The text of a page with its tables as they should be."""
    for name, make in TABLES[page].items():
        mark = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(mark, partial(_between, make()), text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{page} has {count} places for the table {name}")
    return text


def _between(made: str, found: re.Match[str]) -> str:
    return f"{found[1]}{made}\n{found[2]}"


if __name__ == "__main__":
    for page in TABLES:
        path = DOCS / page
        path.write_text(renewed(page, path.read_text()))
