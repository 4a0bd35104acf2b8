"""Draw the README's pictures from real output: `python docs/pictures/draw.py [--run-dir runs/quickstart]`.

check.svg      the table of `torchstone check` for a model with a leak
dashboard.png  the dashboard of the given run
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

import torchstone as ts
from torchstone.report.check_table import check_table

HERE = Path(__file__).parent


class Mixer(nn.Module):
    """Mixes every token with the mean of all tokens: the future included."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x + x.mean(dim=1, keepdim=True))


class Block(nn.Module):
    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.mixer = mixer
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x + self.mixer(self.norm(x)))


class LeakyTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.position = nn.Embedding(64, 32)
        self.blocks = nn.ModuleList([Block(nn.Linear(32, 32)), Block(Mixer()), Block(nn.Linear(32, 32))])
        self.head = nn.Linear(32, 100)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids) + self.position(torch.arange(input_ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def draw_check(path: Path) -> None:
    torch.manual_seed(0)
    report = ts.check(LeakyTransformer(), task="causal-lm", config={"vocab_size": 100, "max_seq_len": 64})
    screen = Console(record=True, width=118, file=io.StringIO(), force_terminal=True)
    screen.print(check_table(report.to_dict()))
    svg = screen.export_svg(title="torchstone check model.py:LeakyTransformer")
    # The exported picture names a font on the web; ours must not fetch anything.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/quickstart"))
    options = parser.parse_args()
    draw_check(HERE / "check.svg")
    shutil.copyfile(options.run_dir / "dashboard.png", HERE / "dashboard.png")


if __name__ == "__main__":
    main()
