"""Every MLP of a block by name.

A new one is one file beside this one with its module, its twin and its `RECORD` (see `mlp/record.py` for what
it may read and what it returns); the record's name in the list below; its knobs in `mlp/config.py`, where
`model.mlp.name` names it too. `tests/laws/test_mechanisms.py` then
holds it to the laws, for each value of its knobs.
"""

from __future__ import annotations

from torchstone._registry import Registry
from torchstone.nn.mlp import dense, lens_context, reciprocal, rmlp
from torchstone.nn.mlp.record import MLPRecord

MLPS: Registry[MLPRecord] = Registry("MLP mechanism")

for _record in (dense.RECORD, reciprocal.RECORD, rmlp.RECORD, *lens_context.RECORDS):
    MLPS.add(_record)
