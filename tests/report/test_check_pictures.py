"""What tier 2 saw is drawn in the page: the right pixels, the right shades, and names that stay names."""

from __future__ import annotations

import base64
import re
import zlib

import pytest
from report.pages import Reader
from report.reports import HOSTILE, check, report

from torchstone.report.check_html import check_html
from torchstone.report.heat import heat_map, shade


def drawn(**details: object) -> str:
    kind = "attribution" if "attribution_scores" in details else "attention-patterns"
    return check_html(report(check(kind, "pass", details=details)))


def pixels(page: str) -> list[list[int]]:
    """Rows of levels of the first picture, read back from the PNG."""
    content = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    width = int.from_bytes(content[16:20], "big")
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start], "big")
    rows = zlib.decompress(content[start + 4 : start + 4 + length])
    return [list(rows[at + 1 : at + 1 + width]) for at in range(0, len(rows), width + 1)]


def test_every_head_of_every_layer_is_drawn_as_it_is() -> None:
    packed = base64.b64encode(bytes([0, 255, 128, 7])).decode()
    layer = {"module": "blocks.0.attn", "keys": 2, "entropy": [0.5, 0.25], "weights": [packed, packed]}
    page = drawn(heads=[layer, layer], num_layers=2)
    read = Reader(page)
    assert read.tags["img"] == 4 and "blocks.0.attn" in read.text and "0.25 nats" in read.text
    assert pixels(page) == [[0, 255], [128, 7]]
    assert packed not in read.text, "what is drawn does not stand in the evidence, too"
    assert "num_layers" in read.text


def test_tokens_are_shaded_by_what_the_answer_rests_on() -> None:
    page = drawn(attribution_scores=[0.0, 1.0], input_tokens=[5, 6], tokens=["small", "large"], target=3)
    assert re.search(r'background:rgb\(255,255,255\);color:#000000" title="0.000">small<', page)
    assert re.search(r'background:rgb\(8,48,107\);color:#ffffff" title="1.000">large<', page)


def test_strange_names_and_tokens_stay_text() -> None:
    packed = base64.b64encode(bytes(4)).decode()
    layer = {"module": HOSTILE, "keys": 2, "entropy": [0.1], "weights": [packed]}
    for page in (
        drawn(heads=[layer]),
        drawn(attribution_scores=[1.0], input_tokens=[1], tokens=[HOSTILE], target=0),
    ):
        read = Reader(page)
        assert read.tags["script"] == 0
        assert not [name for name, _ in read.attributes if name.startswith("on")]


@pytest.mark.parametrize("packed", ["not base64!", base64.b64encode(bytes(3)).decode(), "", 5])
def test_what_is_no_picture_is_left_out(packed: object) -> None:
    layer = {"module": "a", "keys": 2, "entropy": [0.1], "weights": [packed]}
    assert Reader(drawn(heads=[layer])).tags["img"] == 0


def test_shades_get_darker_with_the_share_and_text_stays_readable() -> None:
    def luminance(css: str) -> float:
        parts = [int(each) / 255 for each in re.search(r"rgb\((\d+),(\d+),(\d+)\)", css).groups()]
        red, green, blue = (
            each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = [shade(step / 20) for step in range(21)]
    lights = [luminance(each) for each in shades]
    assert lights == sorted(lights, reverse=True)
    for css, light in zip(shades, lights, strict=True):
        ink = 1.0 if "color:#ffffff" in css else 0.0
        assert (max(ink, light) + 0.05) / (min(ink, light) + 0.05) >= 4.5, css


def test_the_picture_is_told_in_words() -> None:
    assert 'alt="weights of &lt;b&gt;"' in heat_map(bytes(4), 2, "weights of <b>")
