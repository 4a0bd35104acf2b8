"""Take secrets out of text before it is kept: keys of known services, and values beside telling names."""

from __future__ import annotations

import re

REMOVED = "[removed]"

_KEYS = re.compile(
    r"hf_[A-Za-z0-9]{20,}"
    r"|sk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_[A-Za-z0-9_]{30,}"
    r"|glpat-[A-Za-z0-9_-]{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_TELLING = r"(?:api[_-]?key|access[_-]?key|secret|token(?!i[sz])|passw(?:or)?d|credential)s?"
_NAMED = re.compile(
    rf"""(?ix) ( [\w-]*{_TELLING}[\w-]* ["']? (?: \s*[=:]>?\s* | \s+(?=["']?[\w/+-]{{16,}}) ) ["']? )
         ( (?!\[removed\]) [^\s"',;)}}]{{8,}} )"""
)
_IN_ADDRESS = re.compile(r"(\w+://[^\s/:@]+:)[^\s/@]+(?=@)")


def scrub(text: str) -> str:
    """`text` with every secret that can be told as one replaced. It errs on the side of removing."""
    text = _KEYS.sub(REMOVED, text)
    text = _IN_ADDRESS.sub(rf"\g<1>{REMOVED}", text)
    return _NAMED.sub(rf"\g<1>{REMOVED}", text)


def scrub_arguments(arguments: list[str]) -> list[str]:
    """A command line likewise, also where name and value are two words (`--token VALUE`)."""
    kept = []
    telling = re.compile(rf"(?i)^-+[\w-]*{_TELLING}$")
    for before, word in zip(["", *arguments], arguments, strict=False):
        kept.append(REMOVED if telling.match(before) else scrub(word))
    return kept
