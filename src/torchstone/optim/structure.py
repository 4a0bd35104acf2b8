"""Which part of a transformer a parameter belongs to, read off its dotted name.

    part_of("blocks.3.attention.qkv.weight")     # "attention"
    part_of("lm_head.weight")                    # "head"

Models are named by people, so this goes by the words that they use. What no word gives away is "other", and
whoever asks for a part that a model has not is told so instead of served silently (see `groups.py`).
"""

from __future__ import annotations

import re
from typing import Literal, get_args

Part = Literal["attention", "mlp", "coupling", "head", "other"]
PARTS: tuple[Part, ...] = get_args(Part)

_ATTENTION = re.compile(r"attn|attention|mha|qkv")
_MLP = re.compile(r"mlp|ffn|feed_?forward|ff$")
_COUPLING = re.compile(r"coupling|recip|cross_token|(^|_)alpha$|lens|route")
_HEAD = {"head", "lm_head", "heads", "output", "out", "classifier", "fc_out", "logits", "unembed", "score"}


def part_of(name: str) -> Part:
    """Part of the parameter `name`. Coupling terms lie inside attention or MLP, so they are asked first."""
    path = name.lower().split(".")
    if any(_COUPLING.search(word) for word in path):
        return "coupling"
    for word in path[:-1]:
        if _ATTENTION.search(word):
            return "attention"
        if _MLP.search(word):
            return "mlp"
    in_block = any(word.isdecimal() for word in path)
    if not in_block and any(word in _HEAD for word in path[:-1]):
        return "head"
    return "other"
