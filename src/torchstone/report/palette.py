"""One visual language for every picture and page: colours that stay apart for colour-blind eyes.

Curves follow the Okabe-Ito colours (Okabe and Ito, 2008, "Color Universal Design"), darkened or lightened for
contrast with their surface. A status is never told by colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours of one surface, light or dark."""

    name: str
    background: str
    card: str
    ink: str
    soft: str
    """Axes, captions: readable, but behind the data."""
    line: str
    """Grids and borders."""
    curves: tuple[str, ...]
    good: str
    warning: str
    bad: str
    odd: str
    """Neither good nor bad: a check that could not be judged."""

    @property
    def colours(self) -> tuple[str, ...]:
        """All of them, in the same order in every theme."""
        return (
            *(self.background, self.card, self.ink, self.soft, self.line),
            *self.curves,
            *(self.good, self.warning, self.bad, self.odd),
        )


LIGHT = Theme(
    name="light",
    background="#ffffff",
    card="#f6f7f9",
    ink="#1c2330",
    soft="#5a6475",
    line="#d9dee6",
    curves=("#0072b2", "#d55e00", "#009e73", "#a8578a", "#8a6d00"),
    good="#00694d",
    warning="#8a5a00",
    bad="#b3261e",
    odd="#7b3f8c",
)

DARK = Theme(
    name="dark",
    background="#14181f",
    card="#1d232d",
    ink="#e8ebf0",
    soft="#a3adbb",
    line="#343c49",
    curves=("#56b4e9", "#ff8c42", "#3ecf9f", "#e39cc7", "#f0e442"),
    good="#4fd0a5",
    warning="#f0b64a",
    bad="#ff8a80",
    odd="#d7a3e5",
)
