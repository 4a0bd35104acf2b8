"""How the tests of this room look at what was drawn: a page's elements, a terminal's text."""

from __future__ import annotations

import io
import re
from collections import Counter
from html.parser import HTMLParser

from rich.console import Console

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Elements, attributes and text of a page; an unbalanced page is an error."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def drawn(shown, width: int = 80, **options) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(shown)
    return out.getvalue()


def fetches(page: str) -> list[str]:
    """Everything in a page that could make a browser ask somebody else."""
    found = re.findall(r"https?://", page)
    styles = " ".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    for name, value in Reader(page).attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"):
            found += [] if value.startswith("#") else [f"{name}={value}"]
        styles += f" {value}"
    return found + re.findall(r"url\((?!#).*?\)|@import", styles)
