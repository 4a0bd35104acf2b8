"""A figure as a PNG, SVG or PDF file, or as pictures in a page: one for light, one for dark surroundings."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import MissingExtra, UsageError
from torchstone._files import replacing
from torchstone._optional import require
from torchstone.report.page import text
from torchstone.report.palette import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(figure: Figure, path: Path, *, dpi: int = 100) -> Path:
    # No name of the program in it: the same figure is the same file.
    with replacing(Path(path)) as partial:
        figure.savefig(
            partial, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None}
        )
    return Path(path)


def write_picture(figure: Figure, path: Path, *, dpi: int = 100) -> Path:
    """PNG, SVG or PDF, by the ending of the name. The same figure is the same file: no date is in it."""
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending == "png":
        return write_png(figure, path, dpi=dpi)
    silent = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None}}
    if ending not in silent:
        raise UsageError(
            f"a picture cannot be written as {Path(path).name}", next="a name in .png, .svg or .pdf"
        )
    matplotlib: Any = require("matplotlib", "plots")
    with matplotlib.rc_context({"svg.hashsalt": "torchstone"}), replacing(Path(path)) as partial:
        metadata: dict[str, Any] = dict(silent[ending])
        figure.savefig(partial, format=ending, facecolor=figure.get_facecolor(), metadata=metadata)
    return Path(path)


def inline_pictures(draw: Callable[[Theme], Figure], described: str) -> str:
    """HTML of what `draw` draws; `described` says it in words. Without matplotlib, a line that says so."""
    try:
        light = _svg(draw(LIGHT), LIGHT)
        dark = _darkened(light) or _svg(draw(DARK), DARK)
    except MissingExtra as missing:
        return f'<p class="soft">no picture: {text(missing.what)}; {text(missing.next)}</p>'
    drawings = ((LIGHT, light), (DARK, dark))
    shown = "".join(f'<div class="{theme.name}">{_apart(svg, theme)}</div>' for theme, svg in drawings)
    return f'<div class="picture" role="img" aria-label="{text(described)}">{shown}</div>'


def _svg(figure: Figure, theme: Theme) -> str:
    """A fragment of HTML: no header, no metadata, no addresses, same bytes each time."""
    matplotlib: Any = require("matplotlib", "plots")
    out = io.StringIO()
    silent: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "torchstone", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", facecolor=theme.background, metadata=silent)
    # Where everything lies is known from now on: to save the figure again is quicker.
    figure.set_layout_engine("none")
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing)
    return re.sub(r"<!--.*?-->\n?", "", drawing, flags=re.DOTALL)


def _darkened(light: str) -> str | None:
    """The drawing in the dark theme's colours, in a thousandth of the time that drawing takes.

    None where it has colours that are not the theme's, as those of a heat map.
    """
    if "<image" in light or not set(_COLOUR.findall(light)) <= _DARK_FOR.keys():
        return None
    return _COLOUR.sub(lambda found: _DARK_FOR[found[0]], light)


def _apart(drawing: str, theme: Theme) -> str:
    """Two drawings share a page, so each needs names of its own."""
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{theme.name}-", drawing)


_COLOUR = re.compile(r"#[0-9a-f]{6}(?![0-9a-z])")
_DARK_FOR = dict(zip(LIGHT.colours, DARK.colours, strict=True))
