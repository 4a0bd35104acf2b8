"""Names from strangers made harmless: no control character moves a cursor, rings a bell or breaks XML."""

from __future__ import annotations

import re

# C0 and C1 controls, directional overrides, lone surrogates and the two code points XML forbids.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def inert(text: object) -> str:
    """`text` with every unsafe character written as its escape, such as `\\x1b`; newline and tab stay."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))
