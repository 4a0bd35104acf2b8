"""`torchstone generate TARGET`: continue a text with a model, or let it answer."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from torchstone._errors import UsageError
from torchstone.cli.check import Target
from torchstone.cli.session import (
    Device,
    Json,
    Quiet,
    Seed,
    Verbose,
    Yes,
    print_json,
    split_commas,
    start_logging,
)

if TYPE_CHECKING:
    from torchstone.adapt.continuation import Continuation
    from torchstone.adapt.load import LoadedModel

TokenizerFile = Annotated[
    str | None,
    typer.Option("--tokenizer", help="bytes, a tokenizer.json or its folder; default: the model's own."),
]
Trust = Annotated[
    bool | None, typer.Option("--trust/--untrusted", help="Run the model's code here, or refuse.")
]


def generate(
    target: Target = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The text to go on from.")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", help="Read the prompt from this file; - is stdin.")
    ] = None,
    ids: Annotated[
        str | None, typer.Option("--ids", help="Token ids instead of text: 1,2,3; the answer is ids too.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Tokens to make.", min=1)] = 100,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: always the likeliest token; 1: as the model says.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Only the K likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Only the likeliest tokens of this probability together.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End before this string; may be repeated.")
    ] = None,
    num_samples: Annotated[int, typer.Option("--num-samples", help="Continuations to make.", min=1)] = 1,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="Show the text while it is made.")
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Use the model's cache.")] = True,
    tokenizer: TokenizerFile = None,
    task: Annotated[str | None, typer.Option("--task", help="The task, where the guess is wrong.")] = None,
    trust: Trust = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Continue a text with any causal language model, or let a sequence-to-sequence model answer.

    Without a prompt the text begins where a document begins. The context never exceeds the model's limit.

    Example:  torchstone generate runs/first --prompt "def add(" --temperature 0 --max-new-tokens 30
    """
    start_logging(quiet, verbose)
    if target is None:
        raise UsageError("which model?", next="torchstone generate TARGET --prompt TEXT")
    text = _prompt(prompt, prompt_file, ids)
    if isinstance(text, list) and stop:
        raise UsageError("--stop has no effect on --ids", why="bare ids have no text")
    from torchstone.adapt.continuation import continue_text
    from torchstone.adapt.generate import Sampling
    from torchstone.adapt.load import load
    from torchstone.adapt.target import parse_target
    from torchstone.adapt.tokenizer_of import require_fit, require_tokenizer
    from torchstone.train.device import bring, choose_device

    sampling: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "use_cache": cache,
    }
    Sampling(**sampling)  # a wrong value is told before a model is loaded
    show = _Stream(stream, num_samples, quiet or as_json, text)
    with redirect_stdout(sys.stderr):  # what a model prints is not our result
        loaded = load(target, task=task, trust=trust, seed=seed)
        words = None
        if not isinstance(text, list):
            words = require_tokenizer(target, tokenizer, "its prompt must become token ids")
            require_fit(words, loaded.facts.vocab_size)
        bring(loaded.module, choose_device(device))
        facts = loaded.facts
        eos = facts.eos_token_id if words is None or words.eos_token_id is None else words.eos_token_id
        chosen = Sampling(**sampling, eos_token_id=eos, num_ids=None if words is None else words.vocab_size)
        made = continue_text(
            loaded.adapter,
            words,
            text,
            chosen,
            stops=stop or (),
            num_samples=num_samples,
            marked=parse_target(target).kind in ("hf", "gpt2"),
            on_text=show.piece,
        )
    if as_json:
        print_json(_record(target, loaded, text, made, sampling))
        return 0
    show.result(made)
    for note in (*loaded.notes, *made.notes) if not quiet else made.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _prompt(prompt: str | None, file: Path | None, ids: str | None) -> str | list[int]:
    if sum(each is not None for each in (prompt, file, ids)) > 1:
        raise UsageError("--prompt, --prompt-file and --ids exclude each other", next="give one of them")
    if ids is not None:
        try:
            found = [int(each) for each in split_commas(ids)]
        except ValueError:
            found = []
        if not found:
            raise UsageError(f"--ids {ids!r} is no list of token ids", next="--ids 1,2,3")
        return found
    if file is None:
        return prompt or ""
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        from torchstone._errors import DataError

        raise DataError("the prompt cannot be read", where=str(file), why=str(problem)) from None


class _Stream:
    """Shows text on stdout: piece by piece where that is wanted, else whole at the end."""

    def __init__(self, wanted: bool | None, num_samples: int, silent: bool, prompt: str | list[int]) -> None:
        self._out: TextIO = sys.stdout  # before what a model prints is sent elsewhere
        if hasattr(self._out, "reconfigure"):
            self._out.reconfigure(errors="replace")  # a model may make what the terminal cannot show
        if wanted and num_samples > 1:
            raise UsageError("several samples cannot stream into one text", next="leave --stream out")
        self.live = not silent and (self._out.isatty() if wanted is None else wanted) and num_samples == 1
        if self.live and self._out.isatty() and isinstance(prompt, str):
            self._write(prompt)

    def piece(self, sample: int, text: str) -> None:
        if self.live and text:
            self._write(text)

    def result(self, made: Continuation) -> None:
        if self.live and made.samples[0].text is not None:
            self._write("\n")
            return
        for number, each in enumerate(made.samples, start=1):
            if len(made.samples) > 1:
                self._write(f"--- sample {number} ({each.ended})\n")
            shown = ",".join(map(str, each.ids)) if each.text is None else each.text
            self._write(f"{shown}\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _record(
    target: str, loaded: LoadedModel, prompt: str | list[int], made: Continuation, sampling: dict[str, Any]
) -> dict[str, Any]:
    """The `torchstone.generate/1` object."""
    return {
        "schema": "torchstone.generate/1",
        "target": target,
        "model": {
            "class": loaded.class_name,
            "fingerprint": loaded.fingerprint,
            "task": loaded.task.kind,
        },
        "prompt": prompt if isinstance(prompt, str) else None,
        "prompt_ids": made.prompt_ids,
        "samples": [
            {"text": each.text, "ids": each.ids, "ended": each.ended, "stop": each.stop}
            for each in made.samples
        ],
        "sampling": sampling,
        "tokens": made.num_tokens,
        "seconds": made.seconds,
        "notes": [*loaded.notes, *made.notes],
    }
