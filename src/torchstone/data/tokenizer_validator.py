"""Proves of a tokenizer what training relies on, with numbers and the first example that breaks it.

    results = validate_tokenizer(tokenizer, num_rows=50304)        # one record per law

ids-in-range        every id that comes out, and the vocabulary itself, lies below the embedding's rows
round-trip          decode(encode(text)) == text, on all planes of Unicode, lone surrogates, controls ...
special-injection   a text that spells a special token stays text
pad-and-eos         pads are masked, a real end of document is not, also where both are one token
batch               a batch gives the ids of its texts one by one
saved               saved and loaded again, it gives the same ids
processes           and in another process, with another hash seed and number of threads

A tokenizer that changes text by design (lower case, NFKC) does not pass the round trip: it gets a warning
with the share of texts that change. One that loses text where it claims not to normalise fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torchstone._errors import TorchstoneError, UsageError
from torchstone.data.tokenizer import Tokenizer

Status = Literal["pass", "warn", "fail", "skip", "error"]
LAWS = ("ids-in-range", "round-trip", "special-injection", "pad-and-eos", "batch", "saved", "processes")
SAMPLE_SIZE = 2000
PROCESS_TIMEOUT_S = 120

HARD = {
    "empty": [""],
    "spaces": [" ", "  a  b ", "\n\n", "\t x", "\u00a0\u2003\u3000", "a\r\nb"],
    "controls": [
        "\x00",
        "".join(map(chr, range(32))),
        "\x7f\x85\u2028\u2029\ufeff",
        "\u200b\u200e\u202e\u2066",
    ],
    "code": ["def f(x):\n\treturn x ** 2  # half\n", "{'a': [1, 2.5e-3]}", "https://example.org/?q=%20"],
    "zero-width joiners": ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "क्‍ष"],
    "composed and decomposed": ["é ö Å", "e\u0301 o\u0308 A\u030a", "\u1100\u1161\u11a8 각", "ﬁ ² ① ｱ"],
    "scripts": [
        "中文字符",
        "日本語のテキスト",
        "한국어",
        "русский",
        "ελληνικά",
        "עברית",
        "العربية",
        "हिन्दी",
        "ไทย",
    ],
    "mixed scripts": ["a中б‏ע१😀z", "1٢३４"],
    "lone surrogates": ["\ud800", "a\udfffb", "\udc00\ud800", "\ud83d \ude00"],
    "edges of planes": ["\ud7ff\ue000", "\ufffd\ufffe\uffff", "\U00010000\U0001ffff", "\U000e0001\U0010ffff"],
    "long": ["a" * 3000, "ab " * 1000],
}


@dataclass(frozen=True, kw_only=True)
class TokenizerCheck:
    """What one law found: the fields of a model's check, as far as a tokenizer has them."""

    id: str
    status: Status
    summary: str
    """One sentence."""
    measured: float | None = None
    limit: float | None = None
    unit: str | None = None
    why: str | None = None
    """Reason of a warning, a skip or an error."""
    hint: str | None = None
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    """JSON-serialisable; `example` is the first text that breaks the law, in Python's escapes."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def validate_tokenizer(
    tokenizer: Tokenizer,
    *,
    num_rows: int | None = None,
    texts: Iterable[str] = (),
    seed: int = 0,
    processes: bool = True,
) -> list[TokenizerCheck]:
    """`num_rows`: of the embedding, None where no model is at hand. `texts`: the user's own, tried too."""
    sample = {**HARD, "planes": _planes(seed), "own texts": list(texts)}
    flat = [text for group in sample.values() for text in group]
    results = [
        _timed("ids-in-range", lambda: _ids_in_range(tokenizer, num_rows, flat)),
        _timed("round-trip", lambda: _round_trip(tokenizer, sample)),
        _timed("special-injection", lambda: _special_injection(tokenizer)),
        _timed("pad-and-eos", lambda: _pad_and_eos(tokenizer)),
        _timed("batch", lambda: _batch(tokenizer, flat)),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tokenizer"
        results.append(_timed("saved", lambda: _saved(tokenizer, folder, flat)))
        if processes and results[-1].status == "pass":
            results.append(_timed("processes", lambda: _processes(tokenizer, folder, flat)))
        else:
            why = "it could not be saved and loaded" if processes else "it was left out"
            results.append(_result("processes", "skip", "not compared with another process", why=why))
    return results


def _ids_in_range(tokenizer: Tokenizer, num_rows: int | None, texts: Sequence[str]) -> TokenizerCheck:
    limit = num_rows if num_rows is not None else tokenizer.vocab_size
    largest, guilty = -1, ""
    for text in texts:
        ids = tokenizer.encode(text)
        wrong = [each for each in ids if not 0 <= each < limit]
        if wrong or (ids and max(ids) > largest):
            largest, guilty = (wrong[0] if wrong else max(ids)), text
        if wrong:
            break
    example = {"example": _shown(guilty), "id": largest, "vocab_size": tokenizer.vocab_size, "rows": num_rows}
    measures: dict[str, Any] = {"measured": largest, "limit": limit - 1, "unit": "largest id"}
    if not 0 <= largest < limit and texts:
        summary = f"the id {largest} lies outside the {limit} {'rows' if num_rows else 'entries'}"
        return _result("ids-in-range", "fail", summary, details=example, **measures)
    if tokenizer.vocab_size > limit:
        measures["measured"] = tokenizer.vocab_size - 1
        summary = (
            f"{tokenizer.vocab_size - limit} of {tokenizer.vocab_size} entries have no row among {limit}"
        )
        hint = f"give the model {tokenizer.vocab_size} rows, or take its own tokenizer"
        return _result("ids-in-range", "fail", summary, hint=hint, details=example, **measures)
    named = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id}
    beyond = {name: each for name, each in named.items() if each is not None and not 0 <= each < limit}
    if beyond:
        return _result("ids-in-range", "fail", f"{beyond} lies outside", details=example, **measures)
    unused = "" if num_rows is None else f"; {num_rows - tokenizer.vocab_size} rows stay unused"
    summary = f"all {tokenizer.vocab_size} ids lie below {limit}{unused}"
    return _result("ids-in-range", "pass", summary, details=example, **measures)


def _round_trip(tokenizer: Tokenizer, sample: dict[str, list[str]]) -> TokenizerCheck:
    changed: dict[str, int] = {}
    explained, num_changed, num_texts = True, 0, 0
    first: dict[str, Any] = {}
    for name, texts in sample.items():
        for text in texts:
            num_texts += 1
            back = tokenizer.decode(tokenizer.encode(text))
            if back == text:
                continue
            num_changed += 1
            changed[name] = changed.get(name, 0) + 1
            lost = not _is_normalised(text, back)
            if not first or (lost and explained):
                first = {"example": _shown(text), "came_back": _shown(back), "group": name}
            explained = explained and not lost
    share = num_changed / num_texts
    measures: dict[str, Any] = {"measured": share, "limit": 0.0, "unit": "share of texts that change"}
    details = {**first, "texts": num_texts, "changed": changed}
    if not num_changed:
        return _result(
            "round-trip", "pass", f"{num_texts} texts come back as they were", details=details, **measures
        )
    summary = f"{num_changed} of {num_texts} texts change, the first in {first['group']}"
    if explained or normalises(tokenizer):
        return _result(
            "round-trip",
            "warn",
            summary,
            why="this tokenizer normalises text: it cannot be lossless",
            hint="generated text and spans will not match the source letter by letter",
            details=details,
            **measures,
        )
    if set(changed) == {"lone surrogates"} and getattr(tokenizer, "unicode_only", False):
        return _result(
            "round-trip",
            "warn",
            summary,
            why="its library takes Unicode alone: U+FFFD is put in their place",
            details=details,
            **measures,
        )
    return _result(
        "round-trip",
        "fail",
        summary,
        hint="train one with byte fall-back: torchstone tokenizer train",
        details=details,
        **measures,
    )


def normalises(tokenizer: Tokenizer) -> bool:
    """Whether it says of itself that it changes text before cutting it."""
    return bool(getattr(tokenizer, "normalises", False))


def _special_injection(tokenizer: Tokenizer) -> TokenizerCheck:
    specials: dict[str, int] = getattr(tokenizer, "special_tokens", dict)()
    if not specials:
        return _result(
            "special-injection", "skip", "no special token to inject", why="the tokenizer has none"
        )
    guilty, num_tried = [], 0
    for name, token_id in specials.items():
        for text in (name, f"a {name} b", f"{name}{name}", f"x{name}"):
            num_tried += 1
            if token_id in tokenizer.encode(text):
                guilty.append((name, text))
    asked = getattr(tokenizer, "encode_with_specials", None)
    deaf = [name for name, token_id in specials.items() if asked and asked(name) != [token_id]]
    measures: dict[str, Any] = {"measured": len(guilty), "limit": 0, "unit": "texts that injected a token"}
    if guilty:
        name, text = guilty[0]
        summary = f"a text that spells {name} becomes that token: a document can inject it"
        return _result("special-injection", "fail", summary, details={"example": text}, **measures)
    if deaf:
        return _result(
            "special-injection", "fail", f"{deaf[0]} cannot be written even when asked", **measures
        )
    return _result(
        "special-injection", "pass", f"{num_tried} texts that spell a special stay text", **measures
    )


def _pad_and_eos(tokenizer: Tokenizer) -> TokenizerCheck:
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if eos is None:
        return _result(
            "pad-and-eos",
            "warn",
            "the tokenizer has no end-of-document token",
            why="documents of a packed text then run into each other",
        )
    padder: Callable[..., dict[str, Any]] | None = getattr(tokenizer, "pad", None)
    if padder is None:
        return _result("pad-and-eos", "skip", "the tokenizer does not pad", why="it has no `pad`")
    short, long = [*tokenizer.encode("a"), eos], [*tokenizer.encode("a longer text, and more of it"), eos]
    if pad is None:
        return _result(
            "pad-and-eos",
            "warn",
            "the tokenizer has no pad token: batches of unequal texts fail",
            hint="tokenizer.pad_token_id = tokenizer.eos_token_id is safe: pads are masked by length",
        )
    batch = padder({"input_ids": [short, long]}, padding=True)
    told = [list(map(int, row)) for row in batch["attention_mask"]]
    expected = [[1] * len(short) + [0] * (len(long) - len(short)), [1] * len(long)]
    wrong = sum(
        a != b for left, right in zip(told, expected, strict=True) for a, b in zip(left, right, strict=True)
    )
    details = {"pad": pad, "eos": eos, "mask": told[0], "expected": expected[0]}
    measures: dict[str, Any] = {"measured": wrong, "limit": 0, "unit": "wrong places of the mask"}
    if wrong:
        guilty = (
            "a real end of document is masked"
            if told[0][len(short) - 1] == 0 or told[1][-1] == 0
            else "pads are not masked"
        )
        return _result("pad-and-eos", "fail", guilty, details=details, **measures)
    which = "pad is eos: " if pad == eos else ""
    return _result(
        "pad-and-eos",
        "pass",
        f"{which}pads are masked, the end of a document is kept",
        details=details,
        **measures,
    )


def _batch(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenizerCheck:
    together = tokenizer.encode_batch(texts)
    wrong = [text for text, ids in zip(texts, together, strict=True) if list(ids) != tokenizer.encode(text)]
    details = {"example": _shown(wrong[0])} if wrong else {}
    measures: dict[str, Any] = {"measured": len(wrong), "limit": 0, "unit": "texts"}
    if wrong:
        return _result(
            "batch", "fail", "a batch gives other ids than its texts alone", details=details, **measures
        )
    return _result("batch", "pass", f"{len(texts)} texts have the same ids alone and together", **measures)


def _saved(tokenizer: Tokenizer, folder: Path, texts: Sequence[str]) -> TokenizerCheck:
    from torchstone.data.tokenizer import load_tokenizer

    tokenizer.save(folder)
    again = load_tokenizer(folder)
    wrong = [text for text in texts if again.encode(text) != tokenizer.encode(text)]
    same = (again.vocab_size, again.pad_token_id, again.eos_token_id) == (
        tokenizer.vocab_size,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
    )
    measures: dict[str, Any] = {"measured": len(wrong), "limit": 0, "unit": "texts"}
    if wrong or not same:
        details = {"example": _shown(wrong[0]) if wrong else "size, pad or eos differ"}
        return _result(
            "saved", "fail", "saved and loaded it is another tokenizer", details=details, **measures
        )
    return _result(
        "saved", "pass", f"{len(texts)} texts have the same ids after saving and loading", **measures
    )


_PROBE = """
import json, sys
from pathlib import Path
from torchstone.data.tokenizer import load_tokenizer
from torchstone.data.tokenizer_validator import ids_digest
texts = json.loads(Path(sys.argv[2]).read_text())
print(json.dumps(ids_digest(load_tokenizer(sys.argv[1]), texts)))
"""


def ids_digest(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """A short hash of each text's ids."""
    return [hashlib.sha256(repr(ids).encode()).hexdigest()[:16] for ids in tokenizer.encode_batch(texts)]


def _processes(tokenizer: Tokenizer, folder: Path, texts: Sequence[str]) -> TokenizerCheck:
    task = folder.parent / "texts.json"
    task.write_text(json.dumps(list(texts)))  # ASCII: lone surrogates survive as escapes
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "4711",
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-c", _PROBE, str(folder), str(task)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROCESS_TIMEOUT_S)
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return _result("processes", "error", "another process could not use it", why=why)
    pairs = zip(texts, json.loads(ran.stdout), ids_digest(tokenizer, texts), strict=True)
    wrong = [text for text, there, here in pairs if there != here]
    measures: dict[str, Any] = {"measured": len(wrong), "limit": 0, "unit": "texts"}
    if wrong:
        details = {"example": _shown(wrong[0])}
        return _result("processes", "fail", "another process gives other ids", details=details, **measures)
    return _result(
        "processes", "pass", f"{len(texts)} texts have the same ids in another process", **measures
    )


def _planes(seed: int) -> list[str]:
    """Seeded texts from every plane of Unicode, its 66 non-characters and unassigned points included."""
    draw = random.Random(seed)
    texts = []
    for place in range(SAMPLE_SIZE):
        plane = place % 17
        points = (plane << 16 | draw.randrange(0x10000) for _ in range(draw.randint(1, 12)))
        texts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
    return texts


def _is_normalised(text: str, back: str) -> bool:
    """Whether only case, accents, spaces or compatible forms differ: nothing that a reader would miss."""
    return _skeleton(text) == _skeleton(back)


def _skeleton(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(
        each
        for each in unicodedata.normalize("NFKD", folded)
        if unicodedata.category(each)[0] not in "ZM" and not each.isspace()
    )


def _shown(text: str) -> str:
    """Short and printable, also where the text is not."""
    told = text.encode("unicode_escape").decode("ascii")
    return told if len(told) <= 80 else told[:77] + "..."


def _timed(name: str, check: Callable[[], TokenizerCheck]) -> TokenizerCheck:
    start = time.perf_counter()
    try:
        found = check()
    except UsageError:
        raise
    except (
        TorchstoneError,
        UnicodeError,
        ValueError,
        TypeError,
        OverflowError,
        OSError,
        subprocess.TimeoutExpired,
    ) as fault:
        found = _result(name, "error", "the tokenizer broke down", why=f"{type(fault).__name__}: {fault}")
    return replace(found, seconds=time.perf_counter() - start)


def _result(name: str, status: Status, summary: str, **fields: Any) -> TokenizerCheck:
    return TokenizerCheck(id=name, status=status, summary=summary, **fields)
