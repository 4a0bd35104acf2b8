"""What tier 2 saw, drawn: the weights of every attention head, and what an answer rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torchstone.report.heat import heat_map, shade, unpacked
from torchstone.report.page import text

DRAWN = ("heads", "picture")
"""Entries of `details` that are drawn, and left out of the evidence in words."""


def pictures(checks: Sequence[dict[str, Any]]) -> str:
    """HTML of whatever can be drawn of these results; empty if nothing can."""
    found = {each["id"]: each.get("details") or {} for each in checks}
    return "".join(
        [_attention(found.get("attention-patterns", {})), _attribution(found.get("attribution", {}))]
    )


def _attention(details: dict[str, Any]) -> str:
    layers = details.get("heads") or []
    if not layers:
        return ""
    left = details.get("layers_not_drawn") or 0
    more = f" {left} more layers are not drawn." if left else ""
    told = (
        "One row per attention, one map per head, of the first example: queries from top to bottom, keys "
        f"from left to right; the darker, the more weight (square-root scale).{more}"
    )
    rows = "".join(_layer(layer) for layer in layers)
    return f'<h2>What heads look at</h2><p class="soft">{text(told)}</p><div class="heads">{rows}</div>'


def _layer(layer: dict[str, Any]) -> str:
    name, width = str(layer.get("module") or "the model"), int(layer.get("keys") or 0)
    maps = []
    for number, packed in enumerate(layer.get("weights") or []):
        levels = unpacked(packed, width)
        if levels is None:
            continue
        entropy = (layer.get("entropy") or [])[number : number + 1]
        said = f"{entropy[0]:.2f} nats" if entropy else ""
        picture = heat_map(levels, width, f"weights of head {number} of {name}, {said}")
        maps.append(f"<figure>{picture}<figcaption>{number}: {text(said)}</figcaption></figure>")
    return f'<section><h3><code>{text(name)}</code></h3><div class="maps">{"".join(maps)}</div></section>'


def _attribution(details: dict[str, Any]) -> str:
    scores = details.get("attribution_scores") or []
    picture = details.get("picture") or {}
    levels = unpacked(picture.get("levels", ""), int(picture.get("width") or 0)) if picture else None
    if levels is not None:
        drawn = f'<div class="maps">{heat_map(levels, int(picture["width"]), "attribution per pixel")}</div>'
    elif scores and details.get("input_tokens"):
        drawn = f'<p class="tokens">{"".join(_tokens(details, scores))}</p>'
    else:
        return ""
    place = details.get("target_position")
    where = "" if place is None else f" at position {place}"
    told = (
        f"Integrated gradients of the likeliest answer, class {details.get('target')}{where}; the darker, "
        "the more it rests on it."
    )
    return f'<h2>What an answer rests on</h2><p class="soft">{text(told)}</p>{drawn}'


def _tokens(details: dict[str, Any], scores: Sequence[float]) -> Iterator[str]:
    words = details.get("tokens") or details["input_tokens"]
    for word, score in zip(words, scores, strict=False):
        yield f'<span style="{shade(float(score))}" title="{float(score):.3f}">{text(word)}</span>'
