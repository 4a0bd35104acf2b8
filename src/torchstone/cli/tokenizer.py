"""`torchstone tokenizer`: train one, look at one, prove one. Exit 0 if it holds, 1 if a law is broken."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.session import Json, Quiet, Seed, Verbose, console, print_json, start_logging

if TYPE_CHECKING:
    from torchstone.data.source import Corpus
    from torchstone.data.tokenizer import Tokenizer

app = typer.Typer(help="Train, show and validate tokenizers.", no_args_is_help=True)

KINDS = ("bpe", "char", "byte")
SAMPLE_TEXTS = 200

Which = Annotated[
    str,
    typer.Argument(
        metavar="TOKENIZER", help="A file or folder of any known format, a run, bytes, or pretrained:NAME."
    ),
]


@app.command("train", no_args_is_help=True)
def train(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="builtin:stdlib, a file, a folder, a glob, a table.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the tokenizer.")],
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", help="Entries; default 4096. The bytes are always 258.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="bpe, char or byte.")] = "bpe",
    pad_size: Annotated[
        bool, typer.Option("--pad/--no-pad", help="Fill a BPE that the text leaves short with <unused_N>.")
    ] = True,
    max_bytes: Annotated[int | None, typer.Option("--max-bytes", help="Read at most this much text.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the source, train and write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Train a tokenizer on a source; the folder also loads with transformers.AutoTokenizer.

    Example:  torchstone tokenizer train builtin:stdlib --vocab-size 2048 --max-bytes 2000000 --out tok

    Example:  torchstone tokenizer train 'notes/*.txt' --kind char --vocab-size 500 --out letters
    """
    start_logging(quiet, verbose)
    if kind not in KINDS:
        raise UsageError(f"--kind {kind!r} is unknown", next=f"choose one of: {', '.join(KINDS)}")
    if kind == "byte" and vocab_size not in (None, 258):
        raise UsageError("--vocab-size has no effect on --kind byte", why="256 bytes and 2 specials are 258")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists already", why="nothing is overwritten", next="give --out a new folder"
        )
    from torchstone.data.config import DataConfig
    from torchstone.data.source import read_source
    from torchstone.data.tokenizer import DEFAULT_VOCAB_SIZE

    wanted = 258 if kind == "byte" else vocab_size or DEFAULT_VOCAB_SIZE
    corpus = read_source(source, DataConfig(validation_split=0.0, max_bytes=max_bytes))
    answer: dict[str, Any] = {
        "schema": "torchstone.tokenizer-info/1",
        "tokenizer": str(out),
        "source": {"name": source, "files": len(corpus.files("train")), "bytes": corpus.num_bytes("train")},
        "requested": wanted,
        "dry_run": dry_run,
    }
    if dry_run:
        answer |= {
            "kind": {"byte": "bytes"}.get(kind, kind),
            "vocab_size": None,
            "reason": "nothing was trained",
        }
    else:
        made, reason = _train(corpus, kind, wanted, pad_size)
        made.save(out)
        from torchstone.data.tokenizer_info import tokenizer_info

        answer |= tokenizer_info(made, list(islice(_texts(corpus), SAMPLE_TEXTS))) | {"reason": reason}
    if as_json:
        print_json(answer)
    else:
        _show(answer)
    return 0


@app.command("show", no_args_is_help=True)
def show(
    tokenizer: Which,
    text: Annotated[
        str | None, typer.Option("--text", help="Show how this text is cut, and measure on it.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show what a tokenizer is: kind, size, specials, which known models have that size.

    Example:  torchstone tokenizer show tok --text "def add(a, b):"

    Example:  torchstone tokenizer show path/to/tokenizer.json --json
    """
    start_logging(quiet, verbose)
    from torchstone.data.tokenizer_info import preview, tokenizer_info

    found = _open(tokenizer)
    answer = {
        "schema": "torchstone.tokenizer-info/1",
        "tokenizer": tokenizer,
        **tokenizer_info(found, [text] if text else []),
        "preview": preview(found, text) if text else [],
    }
    if as_json:
        print_json(answer)
    else:
        _show(answer)
    return 0


@app.command("validate", no_args_is_help=True)
def validate(
    tokenizer: Which,
    rows: Annotated[
        int | None, typer.Option("--rows", help="Rows of the embedding it is for.", min=1)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="TARGET", help="Take the rows of this model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="SOURCE", help="Try texts of this source as well.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Prove a tokenizer: ids below the rows, round trip, specials, padding, same ids everywhere.

    Example:  torchstone tokenizer validate tok --rows 2048

    Example:  torchstone tokenizer validate bytes --model zoo:gpt-nano
    """
    start_logging(quiet, verbose)
    if rows is not None and model is not None:
        raise UsageError("--rows and --model both tell the rows", next="give one of them")
    from torchstone.data.tokenizer_validator import validate_tokenizer
    from torchstone.tracking.records import verdict

    found = _open(tokenizer)
    num_rows = _rows_of(model) if model is not None else rows
    texts = list(islice(_texts(_corpus(data)), SAMPLE_TEXTS)) if data else []
    results = validate_tokenizer(found, num_rows=num_rows, texts=texts, seed=seed)
    told = verdict([each.status for each in results if each.status != "skip"])
    if as_json:
        print_json(
            {
                "schema": "torchstone.tokenizer-check/1",
                "tokenizer": tokenizer,
                "vocab_size": found.vocab_size,
                "rows": num_rows,
                "verdict": told,
                "checks": [each.to_dict() for each in results],
            }
        )
    else:
        screen = console()
        for each in results if not quiet else [each for each in results if each.status != "pass"]:
            screen.print(f"{each.status.upper():5} {each.id:18} {each.summary}", markup=False, soft_wrap=True)
            for name, line in (
                ("why", each.why),
                ("example", each.details.get("example")),
                ("hint", each.hint),
            ):
                if line and each.status != "pass":
                    screen.print(f"      {name}: {line}", markup=False, soft_wrap=True)
        screen.print(f"{told}: {tokenizer}", markup=False, soft_wrap=True)
    return 0 if told in ("pass", "warn") else 1


def _train(corpus: Corpus, kind: str, size: int, pad_size: bool) -> tuple[Tokenizer, str]:
    if kind == "byte":
        from torchstone.data.byte_tokenizer import ByteTokenizer

        return ByteTokenizer(), "one token per byte"
    if kind == "char":
        from torchstone.data.char_tokenizer import CharTokenizer

        return CharTokenizer.build(size, _texts(corpus)), "the text's characters by frequency, then others"
    from torchstone.data.bpe import train_bpe

    made = train_bpe(_texts(corpus), size, pad_size=pad_size)
    learned = made.vocab_size - made.num_unused
    if learned == size:
        return made, "the size was reached"
    short = f"the text yields {learned} of {size} tokens: no further pair occurs twice"
    return made, f"{short}; {made.num_unused} <unused_N> fill the rest" if made.num_unused else short


def _open(name: str) -> Tokenizer:
    if name == "bytes":
        from torchstone.data.byte_tokenizer import ByteTokenizer

        return ByteTokenizer()
    if name.startswith("pretrained:"):
        from torchstone.data.tokenizer_tiers import choose_tokenizer

        return choose_tokenizer(0, prefer=name).tokenizer
    from torchstone.data.tokenizer import load_tokenizer

    path = Path(name).expanduser()
    inside = path / "tokenizer"  # of a run
    if not path.exists():
        raise UsageError(
            f"there is no tokenizer {name}", next="give a file, a folder, bytes or pretrained:NAME"
        )
    return load_tokenizer(inside if inside.is_dir() else path)


def _corpus(source: str) -> Corpus:
    from torchstone.data.config import DataConfig
    from torchstone.data.source import read_source

    return read_source(source, DataConfig(validation_split=0.0))


def _texts(corpus: Corpus) -> Iterator[str]:
    return (document.text for document in corpus.documents("train"))


def _rows_of(model: str) -> int:
    from torchstone.adapt.load import load

    rows = load(model).facts.vocab_size
    if rows is None:
        raise UsageError(f"{model} does not tell the rows of its embedding", next="give --rows N")
    return int(rows)


def _show(answer: dict[str, Any]) -> None:
    def special(told: dict[str, Any] | None) -> str:
        return "none" if told is None else f"{told['token']} ({told['id']})"

    facts = [
        ("tokenizer", answer["tokenizer"]),
        ("kind", answer["kind"]),
        ("entries", answer["vocab_size"]),
        ("reason", answer.get("reason")),
    ]
    if "fingerprint" in answer:
        measured = answer["measured"]
        facts += [
            ("pad, eos", f"{special(answer['pad'])}, {special(answer['eos'])}"),
            ("same size as", ", ".join(answer["same_size_as"]) or None),
            (
                "bytes per token",
                f"{measured['bytes_per_token']:.2f} on {measured['bytes']:,} bytes"
                if measured["tokens"]
                else None,
            ),
        ]
    screen = console()
    for name, value in facts:
        if value is not None:
            screen.print(f"{name:16} {value}", markup=False, soft_wrap=True)
    for each in answer.get("preview", []):
        screen.print(f"{each['id']:>16} {each['text']!r}", markup=False, soft_wrap=True)
