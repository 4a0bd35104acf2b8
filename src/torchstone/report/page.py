"""The frame of every HTML file we write: no scripts, nothing fetched, light and dark, fit for paper.

The content policy in the head forbids the browser to load anything, whatever a name from a stranger contains;
`text` is the only way for a value to enter the page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from torchstone.report.inert import inert
from torchstone.report.palette import DARK, LIGHT, Theme


def text(value: Any) -> str:
    """A value as harmless HTML text, also inside a quoted attribute."""
    return html.escape(inert(value), quote=True)


def page(title: str, body: str) -> str:
    """A whole document; `body` is HTML that was made with `text`."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def facts(rows: Iterable[tuple[str, Any]]) -> str:
    """Name and value pairs as a definition list."""
    pairs = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{pairs}</dl>'


def table(header: Iterable[str], rows: Iterable[Iterable[str]], *, caption: str) -> str:
    """Cells are HTML already; give values through `text`."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def status(word: str) -> str:
    """A status as a word in a coloured frame."""
    return f'<span class="status {text(word)}">{text(word.upper())}</span>'


def _variables(theme: Theme) -> str:
    names = ("background", "card", "ink", "soft", "line", "good", "warning", "bad", "odd")
    return "".join(f"--{name}:{getattr(theme, name)};" for name in names)


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_STYLE = f"""
:root{{{_variables(LIGHT)}color-scheme:light dark}}
@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--background);color:var(--ink);font:15px/1.5 system-ui,sans-serif}}
main{{max-width:72rem;margin:0 auto;padding:1.5rem}}
h1{{font-size:1.5rem;margin:0 0 .25rem;overflow-wrap:anywhere}}
h2{{font-size:1.1rem;margin:2rem 0 .5rem}}
code,pre{{font-family:ui-monospace,monospace;font-size:.9em;overflow-wrap:anywhere}}
pre{{white-space:pre-wrap;background:var(--card);padding:.75rem;border-radius:6px;margin:.5rem 0}}
.facts{{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.75rem 1.25rem;
background:var(--card);padding:1rem;border-radius:8px;margin:1rem 0}}
dt{{color:var(--soft);font-size:.8rem}}
dd{{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%}}
caption{{text-align:left;color:var(--soft);padding:.25rem 0}}
th,td{{text-align:left;vertical-align:top;padding:.45rem .75rem .45rem 0;border-bottom:1px solid var(--line)}}
th{{color:var(--soft);font-weight:600;font-size:.8rem}}
td{{overflow-wrap:anywhere;font-variant-numeric:tabular-nums}}td:last-child{{overflow-wrap:normal}}
td:first-child{{overflow-wrap:break-word}}
.status{{display:inline-block;min-width:4.2em;text-align:center;font:600 .75rem/1.5 ui-monospace,monospace;
padding:.1em .5em;border:1.5px solid;border-radius:4px;color:var(--soft)}}
.pass,.completed{{color:var(--good)}}.warn,.interrupted,.killed{{color:var(--warning)}}
.fail,.failed{{color:var(--bad)}}.error{{color:var(--odd)}}
.soft{{color:var(--soft)}}
.tree,.tree ul{{list-style:none;margin:0;padding-left:1.1rem;border-left:1px solid var(--line)}}
.tree{{padding-left:.5rem}}
.guilty>code{{color:var(--bad);font-weight:700;outline:1.5px solid;padding:0 .25em;border-radius:3px}}
.picture{{margin:1rem 0}}
.picture svg{{width:100%;height:auto;display:block}}
.picture .dark{{display:none}}
@media screen and (prefers-color-scheme:dark){{.picture .light{{display:none}}
.picture .dark{{display:block}}}}
.heads{{max-height:48rem;overflow:auto}}
.heads h3{{font-size:.9rem;margin:.75rem 0 .25rem}}
.maps{{display:flex;flex-wrap:wrap;gap:.75rem}}
.maps figure{{margin:0}}
.maps figcaption{{color:var(--soft);font-size:.75rem;text-align:center}}
.heat{{image-rendering:pixelated;border:1px solid var(--line);display:block}}
.tokens{{line-height:2;overflow-wrap:anywhere}}
.tokens span{{display:inline-block;padding:0 .3em;margin:0 1px;border:1px solid var(--line);border-radius:3px;
font:.9em/1.6 ui-monospace,monospace}}
@media print{{.heads{{max-height:none}}}}
@media print{{body{{font-size:11px}}main{{max-width:none;padding:0}}tr,.picture,.facts{{break-inside:avoid}}}}
"""
