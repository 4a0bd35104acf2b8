"""Use this bundle without torchstone: text, a file, a folder or ids in, an answer out.

    python inference.py --input "Once upon a time" --format onnx --temperature 0 --stop "."
    python inference.py --input photos/ --batch 16 --json          # a model of images
    python inference.py --input reviews.txt --lines --format torch # each line is an input

A text file is one input, a folder one per file. `--format` is onnx, pt2, torch (the weights in
model.safetensors) or another name in bundle.json. Needs numpy and the format's runtime, `tokenizers` for
text, `pillow` for images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from torchstone.export.standalone.decoding import Sampling, Stream, Wrong, choose, softmax
from torchstone.export.standalone.runtimes import CannotRun, Run, open_format, read_manifest, say

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
GENERATIVE = ("causal-lm", "seq2seq")
CLASSES = ("classification", "vision")
Rows = list[list[int]]


class Predictor:
    """One format of a bundle with its words: rows of ids or pixels in, records out."""

    def __init__(self, folder: Path, format: str = "onnx", device: str = "cpu") -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.about: dict[str, Any] = self.manifest["model"]
        self.task: str = self.about["task"]
        self.format = "safetensors" if format == "torch" else format
        self.run: Run = open_format(self.folder, self.manifest, self.format, device)
        self.names = [each["name"] for each in self.manifest["inputs"]]
        self.limit: int | None = self.manifest["max_length"]
        self.words = self._words()

    def _words(self) -> Any:
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            return None
        try:
            import tokenizers
        except ImportError:
            raise CannotRun("tokenizers is not installed: pip install -r requirements.txt") from None
        words = tokenizers.Tokenizer.from_file(str(file))
        words.no_padding()
        words.no_truncation()
        words.encode_special_tokens = True  # what spells a special token inside a text stays text
        return words

    def encode(self, text: str) -> list[int]:
        if self.words is None:
            raise Wrong("this bundle has no tokenizer: give --ids 1,2,3")
        ids = list(self.words.encode(text, add_special_tokens=self.about["marks"]).ids)
        if (
            self.task == "causal-lm"
            and len(ids) > 1
            and ids[-1] == self.about["eos_token_id"]
            and self.about["marks"]
        ):
            ids.pop()  # behind an end mark another text would begin
        if not ids and self.about["eos_token_id"] is not None:
            ids = [self.about["eos_token_id"]]  # before the first token of a text stands the end of another
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.words.decode(list(ids), skip_special_tokens=True))

    # --- passes ---------------------------------------------------------------------------------

    def outputs(self, rows: Rows, targets: Rows | None = None) -> list[np.ndarray]:
        """One output per row, without its padding. Rows of one length go together where there is no mask."""
        found: list[np.ndarray | None] = [None] * len(rows)
        for group in self._groups(rows, targets):
            output = self.run(
                self._batch([rows[each] for each in group], targets and [targets[each] for each in group])
            )
            stream = rows if targets is None else targets
            for place, row in enumerate(group):
                cut = output.ndim == 3 and isinstance(self.manifest["output"]["axes"][1], str)
                found[row] = output[place, : len(stream[row])] if cut else output[place]
        return [each for each in found if each is not None]

    def _groups(self, rows: Rows, targets: Rows | None) -> list[list[int]]:
        masked = "attention_mask" in self.names
        groups: dict[Any, list[int]] = {}
        for place, row in enumerate(rows):
            key = (0 if masked else len(row), 0 if targets is None else len(targets[place]))
            groups.setdefault(key, []).append(place)
        return list(groups.values())

    def _batch(self, rows: Rows, targets: Rows | None) -> dict[str, np.ndarray]:
        width = self.manifest["fixed_length"] or max(map(len, rows))
        ids = np.full((len(rows), width), self.about["pad_token_id"] or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        if targets is not None:
            batch["decoder_input_ids"] = np.asarray(targets, dtype=np.int64)
            batch["decoder_attention_mask"] = np.ones_like(batch["decoder_input_ids"])
        missing = [name for name in self.names if name not in batch]
        if missing:
            raise Wrong(
                f"this model also takes {missing[0]}, which inference.py cannot make; call runtimes.py"
            )
        return {name: batch[name] for name in self.names}

    # --- what comes of them ---------------------------------------------------------------------

    def classify(self, logits: np.ndarray) -> dict[str, Any]:
        shares = softmax(logits.astype(np.float64))
        best = int(shares.argmax())
        labels = self.about["labels"] or list(map(str, range(len(shares))))
        return {
            "class": best,
            "label": labels[best],
            "score": float(shares[best]),
            "probabilities": shares.tolist(),
        }

    def answer(self, rows: Rows) -> list[dict[str, Any]]:
        """For every task but the generative ones and images."""
        rows = [row[: self.limit] for row in rows]
        outputs = self.outputs(rows)
        if self.task == "classification":
            return [self.classify(each) for each in outputs]
        if self.task == "regression":
            return [{"value": float(each.reshape(-1)[0])} for each in outputs]
        if self.task == "token-classification":
            return [{"tokens": [self.classify(token) for token in each]} for each in outputs]
        if self.task == "encoder" and all(each.ndim == 2 for each in outputs):
            return [{"embedding": each.mean(axis=0).tolist()} for each in outputs]
        return [{"output": each.tolist()} for each in outputs]

    def see(self, files: Sequence[Path | BinaryIO]) -> list[dict[str, Any]]:
        return self.look([self.pixels(each) for each in files])

    def look(self, pictures: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Classes of pictures that are pixels already, (C, H, W) each."""
        return [self.classify(each) for each in self.run({self.names[0]: np.stack(pictures)})]

    def pixels(self, file: Path | BinaryIO) -> np.ndarray:
        """(C, H, W) between 0 and 1, scaled as in training."""
        try:
            from PIL import Image
        except ImportError:
            raise CannotRun("pillow is not installed: pip install -r requirements.txt") from None
        image = self.about["image"]
        with Image.open(file) as opened:
            coloured = opened.convert("L" if image["channels"] == 1 else "RGB")
            sized = coloured.resize((image["width"], image["height"]), Image.Resampling.BILINEAR)
            values = np.asarray(sized, dtype=np.float32) / 255
        values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        if image["mean"] is not None:
            mean, std = (
                np.asarray(image[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("mean", "std")
            )
            values = (values - mean) / std
        return np.ascontiguousarray(values, dtype=np.float32)

    def generate(self, rows: Rows, sampling: Sampling) -> list[dict[str, Any]]:
        """Continue each row, or answer it; all rows together, a pass per token."""
        random = np.random.default_rng(sampling.seed)
        streams = [self.open_stream(row, sampling, random) for row in rows]
        while running := [each for each in streams if each.ended is None]:
            for each, logits in zip(running, self.next_logits(running), strict=True):
                self.take(each, logits)
        return [self.told(each) for each in streams]

    def open_stream(
        self, row: list[int], sampling: Sampling, random: np.random.Generator | None = None
    ) -> Stream:
        """A text to be made; `random` is shared by those that were asked for together."""
        first = self.about["decoder_start_token_id"]
        first = self.about["pad_token_id"] if first is None else first
        if self.task == "seq2seq" and first is None:
            raise Wrong("the decoder needs a first token, and bundle.json tells none")
        tokens = [first] if self.task == "seq2seq" else list(row)
        return Stream(row, tokens, sampling, random)

    def next_logits(self, streams: Sequence[Stream]) -> list[np.ndarray]:
        """(V,) of the next token of each stream, by one pass over all."""
        tokens = [each.tokens for each in streams]
        if self.task == "seq2seq":
            found = self.outputs([each.given for each in streams], tokens)
        else:  # the oldest tokens leave first
            found = self.outputs([each[-self.limit :] if self.limit else each for each in tokens])
        return [each[-1] for each in found]

    def take(self, stream: Stream, logits: np.ndarray) -> None:
        """Choose the next token of a stream, and see whether it ends there."""
        token = choose(logits, stream.sampling, stream.random, self._num_ids())
        stream.tokens.append(token)
        stream.made.append(token)
        stream.text, over = self._text(stream.made, stream.sampling.stop)
        full = self.task == "seq2seq" and self.limit is not None and len(stream.tokens) >= self.limit
        if token == self.about["eos_token_id"]:
            stream.ended = "eos"
        elif over:
            stream.ended = "stop"
        elif len(stream.made) >= stream.sampling.max_new_tokens:
            stream.ended = "length"
        elif full:
            stream.ended = "limit"

    def told(self, stream: Stream) -> dict[str, Any]:
        found = {"ids": stream.made, "ended": stream.ended}
        return found if self.words is None else {"text": stream.text, **found}

    def _num_ids(self) -> int | None:
        """Rows of the embedding that the tokenizer has no text for stay unused."""
        return None if self.words is None else max(self.words.get_vocab(with_added_tokens=True).values()) + 1

    def _text(self, ids: Sequence[int], stops: Sequence[str]) -> tuple[str, bool]:
        if self.words is None:
            return "", False
        text = self.decode(ids)
        places = [place for each in stops if (place := text.find(each)) >= 0]
        return (text[: min(places)], True) if places else (text, False)


# --- command line -------------------------------------------------------------------------------


def read_inputs(given: str, lines: bool, images: bool) -> Iterator[tuple[str, str | Path]]:
    """(name, text or picture file) for TEXT, FILE or DIR."""
    path = Path(given)
    known = len(given) < 4096 and "\n" not in given and path.exists()
    if not known:
        if images:
            raise Wrong(f"there is no picture {given}")
        yield given, given
        return
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    files = [each for each in files if not images or each.suffix.lower() in IMAGES]
    if not files:
        raise Wrong(f"{given} holds no {'picture' if images else 'file'}")
    for file in files:
        if images:
            yield str(file), file
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise Wrong(f"{file} is no text in UTF-8") from None
        yield from (
            ((f"{file}:{at}", line) for at, line in enumerate(text.splitlines(), 1))
            if lines
            else [(str(file), text)]
        )


def predict(
    predictor: Predictor, given: list[tuple[str, Any]], batch: int, sampling: Sampling
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for start in range(0, len(given), batch):
        part = [value for _, value in given[start : start + batch]]
        if predictor.task == "vision":
            results += predictor.see(part)
            continue
        rows = [value if isinstance(value, list) else predictor.encode(value) for value in part]
        if predictor.task in GENERATIVE:
            results += predictor.generate(rows, sampling)
        else:
            results += predictor.answer(rows)
    return [{"input": name, **each} for (name, _), each in zip(given, results, strict=True)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Use this bundle.")
    parser.add_argument("--input", help="a text, a file, or a folder of files")
    parser.add_argument("--ids", help="token ids instead of text: 1,2,3")
    parser.add_argument("--lines", action="store_true", help="each line of a file is an input")
    parser.add_argument(
        "--format", default=None, help="onnx, pt2, torch or another in bundle.json; default: the first"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--batch", type=int, default=8, help="inputs that go together")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token")
    parser.add_argument("--top-k", type=int, default=None)
    parser.add_argument("--top-p", type=float, default=None)
    parser.add_argument("--stop", action="append", default=[], help="end before this string; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", default=str(Path(__file__).resolve().parent), help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(encoding="utf-8", errors="replace")
    wanted = _parser().parse_args(arguments)
    began = time.monotonic()
    try:
        results, predictor = _run(wanted)
    except (Wrong, CannotRun) as problem:
        say(f"error: {problem}")
        return 5 if isinstance(problem, CannotRun) else 2
    if wanted.json:
        told = {"task": predictor.task, "format": predictor.format, "results": results}
        print(
            json.dumps(
                {"schema": "torchstone.predict/1", **told, "seconds": time.monotonic() - began},
                ensure_ascii=False,
            )
        )
    else:
        for each in results:
            print(_line(each))
    return 0


def _run(wanted: argparse.Namespace) -> tuple[list[dict[str, Any]], Predictor]:
    if (wanted.input is None) == (wanted.ids is None):
        raise Wrong("give --input TEXT|FILE|DIR, or --ids 1,2,3")
    if wanted.batch < 1:
        raise Wrong("--batch is 1 or more")
    sampling = Sampling(
        wanted.max_new_tokens, wanted.temperature, wanted.top_k, wanted.top_p, wanted.stop, wanted.seed
    )
    folder = Path(wanted.bundle)
    formats = read_manifest(folder)["formats"]
    first = next((name for name in ("onnx", "pt2", "safetensors") if name in formats), "onnx")
    predictor = Predictor(folder, wanted.format or first, wanted.device)
    if wanted.ids is not None:
        given: list[tuple[str, Any]] = [(wanted.ids, _ids(wanted.ids, predictor.about["vocab_size"]))]
    else:
        given = list(read_inputs(wanted.input, wanted.lines, predictor.task == "vision"))
    return predict(predictor, given, wanted.batch, sampling), predictor


def _ids(text: str, rows: int | None) -> list[int]:
    try:
        ids = [int(each) for each in text.split(",") if each.strip()]
    except ValueError:
        ids = []
    if not ids or min(ids) < 0 or (rows is not None and max(ids) >= rows):
        raise Wrong(f"--ids {text!r} are no token ids of this model, which knows 0 to {(rows or 0) - 1}")
    return ids


def _line(result: Mapping[str, Any]) -> str:
    if "text" in result:
        return str(result["text"])
    if "label" in result:
        return f"{result['input']}: {result['label']} ({result['score']:.3f})"
    value = next(value for name, value in result.items() if name != "input")
    return f"{result['input']}: {json.dumps(value)}"


if __name__ == "__main__":
    sys.exit(main())
