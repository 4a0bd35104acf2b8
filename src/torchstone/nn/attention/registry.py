"""Every attention mechanism by name.

A new one is one file beside this one with its module, its twin (or the twin in `naive.py`) and its `RECORDS`;
the file's name in the list below; its knobs in `nn/config.py`, where `model.attention.name` names it too.
`tests/laws/test_mechanisms.py` then holds it to the laws, for each value of its knobs.
"""

from __future__ import annotations

from torchstone._registry import Registry
from torchstone.nn.attention import (
    causal,
    folded,
    gated,
    kvsplice,
    lens,
    mla,
    pruned,
    ra,
    ra_ct,
    rank1,
    residual,
    restart,
    rwr,
    splice,
    tied,
)
from torchstone.nn.attention.record import AttentionRecord

ATTENTIONS: Registry[AttentionRecord] = Registry("attention mechanism")

for _file in (
    causal,
    mla,
    rank1,
    ra,
    ra_ct,
    gated,
    tied,
    restart,
    folded,
    lens,
    residual,
    rwr,
    pruned,
    splice,
    kvsplice,
):
    for _record in _file.RECORDS:
        ATTENTIONS.add(_record)
