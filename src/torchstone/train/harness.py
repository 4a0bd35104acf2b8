"""Our adapter as a model of lm-evaluation-harness, so that any model that comes in can sit its tasks.

    results = run_harness(HarnessJob(target="runs/first", tasks=("hellaswag",)))

Needs the extra [eval]. A tasks' folder of one's own is named by `path`; it may hold code (`!function`), so it
is the user's to trust. Scores are the harness's own; nothing is computed twice here.

Source: https://github.com/EleutherAI/lm-evaluation-harness (docs/model_guide.md, docs/interface.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from torchstone._errors import DataError, ModelError, UsageError
from torchstone._optional import require
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.continuation import continue_text
from torchstone.adapt.facts import device_of
from torchstone.adapt.generate import Sampling
from torchstone.adapt.load import load
from torchstone.adapt.target import parse_target
from torchstone.adapt.tokenizer_of import find_tokenizer, require_fit
from torchstone.train.device import bring, choose_device

_LM: Any = require("lm_eval.api.model", "eval").LM

LONGEST = 1024
"""Tokens of context where the model knows no limit."""
MAX_GENERATED = 256
"""Tokens, where the task sets none."""


@dataclass(frozen=True, kw_only=True)
class HarnessJob:
    """Which tasks, on which model."""

    target: str
    tasks: tuple[str, ...]
    path: Path | None = None
    """A folder with task files of one's own."""
    tokenizer: str | None = None
    task: str | None = None
    batch_size: int = 8
    max_samples: int | None = None
    """Examples per task."""
    trust: bool | None = None
    device: str | None = None
    seed: int = 0


def run_harness(job: HarnessJob) -> dict[str, Any]:
    """Task -> metric -> value, with the harness's own standard errors, versions and counts."""
    lm_eval = require("lm_eval", "eval")
    loaded = load(job.target, task=job.task, trust=job.trust)
    tokenizer = find_tokenizer(job.target, job.tokenizer)
    if tokenizer is None:
        raise DataError(f"{job.target} has no tokenizer", next="--tokenizer bytes, or a tokenizer.json")
    require_fit(tokenizer, loaded.facts.vocab_size)
    bring(loaded.module, choose_device(job.device))
    manager = require("lm_eval.tasks", "eval").TaskManager(
        include_path=None if job.path is None else str(job.path), include_defaults=True
    )
    unknown = [each for each in job.tasks if each not in manager.all_tasks]
    if unknown:
        raise UsageError(
            f"lm-eval knows no task {', '.join(unknown)}",
            where="" if job.path is None else str(job.path),
            next="lm-eval ls tasks lists them; --lm-eval-path FOLDER adds your own",
        )
    model = HarnessModel(
        loaded.adapter,
        tokenizer,
        batch_size=job.batch_size,
        marked=parse_target(job.target).kind in ("hf", "gpt2"),
    )
    found = lm_eval.simple_evaluate(
        model=model, tasks=list(job.tasks), task_manager=manager, limit=job.max_samples, bootstrap_iters=0,
        random_seed=job.seed, numpy_random_seed=job.seed, torch_random_seed=job.seed,
        fewshot_random_seed=job.seed, log_samples=False,
    )  # fmt: skip
    return {
        "results": found["results"],
        "versions": found["versions"],
        "samples": found["n-samples"],
        "notes": model.notes,
    }


class HarnessModel(_LM):
    """Likelihoods and continuations of any causal language model that the adapter can call."""

    def __init__(
        self, adapter: Adapter, tokenizer: Any, *, batch_size: int = 8, marked: bool = False
    ) -> None:
        super().__init__()
        if not adapter.is_causal_lm:
            raise ModelError(
                f"the harness scores causal language models, not {adapter.task.kind}",
                next="--task causal-lm, if the guess is wrong",
            )
        self.adapter = adapter
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.marked = marked
        self.limit = adapter.facts.max_seq_len or LONGEST
        self.notes: list[str] = []

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self.tokenizer, "fingerprint", type(self.tokenizer).__name__))

    # --- what the harness asks ------------------------------------------------------------------

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each continuation behind its context: sum of log probabilities, and whether greedy says it."""
        rows = []
        for context, continuation in (each.args for each in requests):
            before, after = self._pair(context, continuation)
            rows.append((before, after))
        return [(total, greedy) for total, greedy in self._score(rows)]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Of each whole text: every token is scored once, in windows of the model's limit."""
        results = []
        for (text,) in (each.args for each in requests):
            windows = list(rolling_windows(self.tokenizer.encode(text), self._first, self.limit))
            results.append(sum(total for total, _ in self._score(windows)))
        return results

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return [self._continue(context, options) for context, options in (each.args for each in requests)]

    # --- how it is answered ---------------------------------------------------------------------

    @property
    def _first(self) -> int:
        """What stands before the first token of a text."""
        eos = self.tokenizer.eos_token_id
        if eos is None:
            eos = self.adapter.facts.eos_token_id
        return int(self.tokenizer.encode("\n")[0] if eos is None else eos)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both; the border is where the context's own tokens end (the harness's convention)."""
        if not context:
            return [self._first], self.tokenizer.encode(continuation)
        spaces = len(context) - len(context.rstrip())
        if spaces:  # a space belongs to the word behind it
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        encode = self.tokenizer.encode_marked if self._marks else self.tokenizer.encode
        before, whole = encode(context), encode(context + continuation)
        if not before:
            return [self._first], whole
        return before, whole[len(before) :]

    @property
    def _marks(self) -> bool:
        return self.marked and hasattr(self.tokenizer, "encode_marked")

    def _continue(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        sampled = bool(options.get("do_sample", False))
        sampling = Sampling(
            max_new_tokens=int(options.get("max_gen_toks", MAX_GENERATED)),
            temperature=float(options.get("temperature", 1.0)) if sampled else 0.0,
            top_k=options.get("top_k") if sampled else None,
            top_p=options.get("top_p") if sampled else None,
            seed=0,
            eos_token_id=self.tokenizer.eos_token_id,
            num_ids=self.tokenizer.vocab_size,
        )
        made = continue_text(
            self.adapter, self.tokenizer, context, sampling, stops=[each for each in stops if each],
            marked=self.marked,
        )  # fmt: skip
        self.notes += [each for each in made.notes if each not in self.notes]
        return made.samples[0].text or ""

    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Sum over the second part of each row, given the first; longest rows first, in equal batches."""
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place][0]) - len(rows[place][1]))
        results: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            for place, result in zip(places, self._batch([rows[each] for each in places]), strict=True):
                results[place] = result
        return results

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        # The last token is only ever a target. A context that is too long loses its oldest tokens.
        inputs = [(before + after)[:-1][-self.limit :] for before, after in rows]
        length = max(map(len, inputs))
        pad = self.adapter.facts.pad_token_id or 0
        ids = torch.tensor([[*each, *[pad] * (length - len(each))] for each in inputs])
        mask = torch.tensor([[1] * len(each) + [0] * (length - len(each)) for each in inputs])
        device = device_of(self.adapter.base)
        with torch.no_grad():
            # Padding stands on the right, where a causal model does not look.
            logits = self.adapter(input_ids=ids.to(device), attention_mask=mask.to(device)).main
        results = []
        for row, (given, (_, after)) in enumerate(zip(inputs, rows, strict=True)):
            if not after:
                results.append((0.0, True))
                continue
            if len(after) > len(given):
                raise DataError(
                    f"a continuation of {len(after)} tokens is longer than the model's limit of {self.limit}"
                )
            shares = F.log_softmax(logits[row, len(given) - len(after) : len(given)].float(), dim=-1)
            targets = torch.tensor(after, device=device)
            total = shares.gather(-1, targets[:, None]).sum()
            results.append((float(total), bool((shares.argmax(-1) == targets).all())))
        return results


def rolling_windows(ids: Sequence[int], first: int, limit: int) -> Iterator[tuple[list[int], list[int]]]:
    """(context, targets) such that each id is a target once, behind as much context as fits before it."""
    for start in range(0, len(ids), limit):
        targets = list(ids[start : start + limit])
        room = limit + 1 - len(targets)
        before = [first, *ids[:start]][-room:]
        yield before, targets
