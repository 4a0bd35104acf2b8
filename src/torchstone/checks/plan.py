"""What the probes of a job look like, decided beforehand from sizes and the budget, never from the clock.

So the same model, seed and budget give the same report on a fast machine and on a slow one.
"""

from __future__ import annotations

from dataclasses import dataclass

_ASSUMED_FLOPS_PER_S = 6e10
"""A modest two-core machine in float32; a constant, so that plans do not depend on the machine."""

_SHARE = 1 / 200
"""Part of the budget that one forward pass of a standard probe may take: a job makes some 200."""

_KERNELS_S = 600.0
"""Budget from which kernels are generated too."""

_BLOCK_EDGES = (8, 16, 32, 64)
_LENGTHS = (67, 61, 35, 19, 11, 7)
"""Probe lengths beyond a block edge, unlike usual widths, so that the token axis is told from others."""


@dataclass(frozen=True)
class ProbePlan:
    """Lengths, batches, cuts and repeats for one model under one budget."""

    length: int
    """Tokens of a standard probe."""
    batch_size: int
    """Rows of a standard probe."""
    side_length: int
    """Tokens of probes in which length is not the question; shorter for large models."""
    cuts: tuple[int, ...]
    """First changed position of each causal probe, within `length`."""
    few_cuts: tuple[int, ...]
    """Those of `cuts` that variants of a probe repeat."""
    lengths: tuple[int, ...]
    """Lengths for checks that vary it, up to `longest`."""
    longest: int
    """The longest sequence that one forward pass may have, at most the model's own limit."""
    affordable: int
    """Tokens that one long pass may have by cost alone."""
    repeats: int
    """Repetitions where a check draws several samples."""
    max_batch_size: int
    """Largest batch that a check may build."""
    train_steps: int
    """Optimizer steps that a training probe may take."""
    compile_backend: str
    """What torch.compile hands its graphs to: generating and building kernels takes a minute and more."""
    shortened: bool
    """Whether the budget took probes away."""
    note: str
    """One sentence about what was left out; empty if nothing was."""


def choose_plan(parameters: int, max_seq_len: int | None, budget_s: float) -> ProbePlan:
    """The plan for a model of so many `parameters` and at most `max_seq_len` tokens (None: unknown)."""
    seconds_per_token = 2 * max(parameters, 1) / _ASSUMED_FLOPS_PER_S
    affordable = int(budget_s * _SHARE / seconds_per_token)
    limit = max_seq_len or 512
    fitting = [length for length in _LENGTHS if length <= limit] or [limit]
    length = next((each for each in fitting if each <= affordable), fitting[-1])
    # A single long pass may cost what twenty short ones do.
    longest = max(length, min(limit, 20 * affordable))
    batch_size = 2 if 2 * length <= affordable else 1
    short = length < fitting[0]
    roomy = affordable >= 8 * length
    every = _cuts(length)
    cuts = every if roomy else _some(every) if not short else _few(every, 3)
    max_batch_size = 16 if roomy else 4 if affordable >= 2 * length else 2
    note = f"the budget of {budget_s:g} s shortened the probes to {length} tokens" if short else ""
    if not short and longest < limit:
        note = f"within {budget_s:g} s sequences are probed up to {longest} of {limit} tokens"
    return ProbePlan(
        length=length,
        batch_size=batch_size,
        side_length=length if roomy else min(length, 19),
        cuts=cuts,
        few_cuts=_few(cuts, 3 if roomy else 2),
        lengths=tuple(sorted({1, 2, min(17, length), length})),
        longest=longest,
        affordable=max(length, 20 * affordable),
        repeats=5 if roomy else 3 if not short else 2,
        max_batch_size=max_batch_size,
        train_steps=30 if roomy else 10,
        compile_backend="inductor" if budget_s >= _KERNELS_S else "aot_eager_decomp_partition",
        shortened=short,
        note=note,
    )


def _cuts(length: int) -> tuple[int, ...]:
    """Odd places, both sides of every block edge, and the last token."""
    edges = {edge + off for edge in _BLOCK_EDGES for off in (-1, 0, 1)}
    places = {1, 2, 5, length // 2, length - 1} | edges
    return tuple(sorted(place for place in places if 1 <= place < length))


def _some(cuts: tuple[int, ...]) -> tuple[int, ...]:
    """One place per block edge, alternating sides, and both ends."""
    wanted = {1, 9, 15, 33, 63, 64, cuts[-1]} if cuts else set()
    return tuple(cut for cut in cuts if cut in wanted)


def _few(cuts: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The last, one from the middle, the first, as many as are wanted."""
    if not cuts:
        return ()
    return tuple(
        sorted({cuts[-1], cuts[len(cuts) // 2], cuts[0]} if count > 2 else {cuts[-1], cuts[len(cuts) // 2]})
    )
