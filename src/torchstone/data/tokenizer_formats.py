"""Tokenizer files that users bring, recognised by what is in them, opened as a tokenizer of ours.

tokenizer.json                          as it is
vocab.json + merges.txt                 byte-level BPE, as GPT-2 (also encoder.json + vocab.bpe)
vocab.txt                               WordPiece, as BERT
*.model                                 SentencePiece, through its own library
*.tiktoken, or a *.model of that kind   base64 and rank per line, for the published sizes
a folder                                whichever of these it holds, in this order

A file of another kind is a DataError that says what was found.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.data.byte_tokenizer import character_of_byte
from torchstone.data.tokenizer_file import FileTokenizer, read_hub_config, token_name

if TYPE_CHECKING:
    from torchstone.data.tokenizer import Tokenizer

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
KINDS = "tokenizer.json, vocab.json with merges.txt, vocab.txt, a SentencePiece .model, a .tiktoken file"

_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TIKTOKEN_PATTERNS = {
    50256: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # gpt2, r50k_base
    100256: _CL100K,  # cl100k_base
    128000: _CL100K,  # Llama 3
    151643: _CL100K.replace(r"\p{N}{1,3}", r"\p{N}"),  # Qwen
}
"""Number of ranks: how text is cut before merging, which the file itself does not tell."""


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file or folder."""
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise DataError(
            "there is no tokenizer here",
            where=str(path),
            next=f"give {KINDS}, their folder, or auto or bytes",
        )
    for pair in PAIRS:
        if path.name in pair:
            return _from_pair(*(path.parent / name for name in pair))
    if path.name.endswith("vocab.txt"):
        return _from_wordpiece(path)
    if path.suffix == ".tiktoken" or (path.suffix == ".model" and _is_tiktoken(path)):
        return _from_tiktoken(path)
    if path.suffix == ".model":
        from torchstone.data.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer.load(path)
    if path.suffix == ".json" and _is_plain_vocabulary(path):
        raise DataError(
            "this is a vocabulary without its merges",
            where=str(path),
            next="call the files vocab.json and merges.txt, in one folder, or give a tokenizer.json",
        )
    return FileTokenizer.load(path)


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of a folder that name a tokenizer, the best first."""
    names = ["tokenizer.json", *(pair[0] for pair in PAIRS), "tokenizer.model", "spiece.model", "vocab.txt"]
    found = [folder / name for name in names if (folder / name).is_file()]
    return found + sorted(folder.glob("*.tiktoken")) + sorted(folder.glob("*.model"))


def _from_folder(folder: Path) -> Tokenizer:
    found = tokenizer_files(folder)
    if not found:
        raise DataError(
            "there is no tokenizer here",
            where=str(folder),
            why="the folder holds none of the files that are known",
            next=f"give {KINDS}, or auto or bytes",
        )
    return open_tokenizer(found[0])


def _from_pair(vocab_file: Path, merges_file: Path) -> Tokenizer:
    for file in (vocab_file, merges_file):
        if not file.is_file():
            raise DataError(
                f"{file.name} is missing", where=str(file), why="a vocabulary and its merges belong together"
            )
    vocabulary = _read_vocabulary(vocab_file)
    try:
        lines = _lines(merges_file)
    except UnicodeDecodeError as damage:
        raise _damaged("merges", merges_file, damage) from None
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or any(part not in vocabulary for part in (*parts, "".join(parts))):
            raise DataError(
                f"line {number} is no merge of two tokens of the vocabulary",
                where=f"{merges_file}:{number}",
                why=f"it says {line[:60]!r}",
            )
        merges.append((parts[0], parts[1]))
    missing = [letter for letter in character_of_byte().values() if letter not in vocabulary]
    if missing:
        raise DataError(
            "this is no byte-level BPE",
            where=str(vocab_file),
            why=f"{len(missing)} of the 256 bytes have no token",
            next="give the tokenizer.json of the model: it also says how text is cut",
        )
    specials = [token for token in vocabulary if _looks_special(token)]
    return _byte_level(vocabulary, merges, specials, None, read_hub_config(vocab_file.parent))


def _from_wordpiece(file: Path) -> Tokenizer:
    tokenizers = require("tokenizers", "tokenize")
    try:
        tokens = _lines(file)
    except UnicodeDecodeError as damage:
        raise _damaged("vocab.txt", file, damage) from None
    vocabulary = {token: place for place, token in enumerate(tokens)}
    if len(vocabulary) < 5 or "[UNK]" not in vocabulary:
        raise DataError(
            "this is no WordPiece vocabulary",
            where=str(file),
            why="no line of it is [UNK]",
            next=f"give {KINDS}",
        )
    config = read_hub_config(file.parent)
    plain = [token for token in tokens if not _looks_special(token)]
    lowercase = bool(config.get("do_lower_case", all(token == token.lower() for token in plain)))
    library = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    library.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    library.add_special_tokens([token for token in tokens if _looks_special(token)])
    return _named(library, config)


def _is_tiktoken(file: Path) -> bool:
    with file.open("rb") as opened:
        return _rank(opened.readline(1000)) is not None


def _from_tiktoken(file: Path) -> Tokenizer:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if line:
            entry = _rank(line)
            if entry is None:
                raise DataError(
                    "this is no tiktoken file",
                    where=f"{file}:{number}",
                    why=f"a line holds base64 and a rank, this one {line[:40]!r}",
                )
            ranks[entry[0]] = entry[1]
    pattern = TIKTOKEN_PATTERNS.get(len(ranks))
    if pattern is None:
        raise DataError(
            f"how text is cut for a tiktoken file of {len(ranks)} ranks is not known",
            where=str(file),
            why=f"the file does not tell; known are {', '.join(map(str, TIKTOKEN_PATTERNS))} ranks",
            next="give the tokenizer.json of the model",
        )
    letters = character_of_byte()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            parts = _last_merge(token, ranks)
            if len(parts) == 2:
                merges.append((spelled[parts[0]], spelled[parts[1]]))
    specials = ["<|endoftext|>"] if len(ranks) in (50256, 100256, 151643) else []
    vocabulary |= {name: len(ranks) + place for place, name in enumerate(specials)}
    if len(ranks) == 100256:
        vocabulary["<|endoftext|>"] = 100257
    return _byte_level(vocabulary, merges, specials, pattern, {})


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts that were merged to `token`: merge its bytes by the ranks below its own."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1]), i) for i in range(len(parts) - 1)]
        known = [(rank, i) for rank, i in pairs if rank is not None and rank < ranks[token]]
        if not known:
            break
        _, place = min(known)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def _byte_level(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    specials: list[str],
    pattern: str | None,
    config: dict[str, Any],
) -> Tokenizer:
    tokenizers = require("tokenizers", "tokenize")
    before = tokenizers.pre_tokenizers
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pattern is not None)
    )
    prefix = bool(config.get("add_prefix_space", False))
    library.pre_tokenizer = before.ByteLevel(add_prefix_space=prefix)
    if pattern is not None:
        cut = before.Split(tokenizers.Regex(pattern), "isolated")
        library.pre_tokenizer = before.Sequence(
            [cut, before.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(specials)
    return _named(library, config)


def _named(library: Any, config: dict[str, Any]) -> Tokenizer:
    pad, eos = (token_name(config.get(name)) for name in ("pad_token", "eos_token"))
    return FileTokenizer(library, pad=pad, eos=eos)


def _read_vocabulary(file: Path) -> dict[str, int]:
    try:
        vocabulary = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as damage:
        raise _damaged("vocabulary", file, damage) from None
    if not isinstance(vocabulary, dict) or not all(type(each) is int for each in vocabulary.values()):
        raise DataError("this is no vocabulary", where=str(file), why="expected an object of token: id")
    ids = sorted(vocabulary.values())
    if not ids or ids != list(range(len(ids))):
        raise DataError(
            "the ids of the vocabulary are not 0, 1, 2, ...",
            where=str(file),
            why=f"{len(ids)} tokens, ids from {ids[0]} to {ids[-1]}" if ids else "it is empty",
        )
    return vocabulary


def _is_plain_vocabulary(file: Path) -> bool:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(found, dict) and bool(found) and all(type(each) is int for each in found.values())


def _rank(line: bytes) -> tuple[bytes, int] | None:
    parts = line.split()
    if len(parts) != 2 or not parts[1].isdigit():
        return None
    try:
        return base64.b64decode(parts[0], validate=True), int(parts[1])
    except binascii.Error:
        return None


def _lines(file: Path) -> list[str]:
    """Cut at line feeds alone: a token may hold one of the other characters that end a line."""
    lines = file.read_text("utf-8").replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _looks_special(token: str) -> bool:
    """<|endoftext|>, </s>, [CLS]: how the published files of these kinds write them."""
    return len(token) > 2 and (
        (token[0] == "<" and token[-1] == ">" and token[1:-1].strip("|/").replace("_", "").isalnum())
        or (token[0] == "[" and token[-1] == "]" and token[1:-1].rstrip("0123456789").isupper())
    )


def _damaged(what: str, file: Path, damage: Exception) -> DataError:
    return DataError(f"the {what} cannot be read", where=str(file), why=f"{type(damage).__name__}: {damage}")
