"""causal-leak: no output may know a token that comes after it.

Tokens from a cut on are replaced by other valid ones, in float64; outputs before the cut must stay as they
are. Then the same with a mask, with other labels, with the sequence cut short, in training mode, and with
noise on the weights, which opens paths that a zero weight closes. The guilty module is the one whose inputs
agree on the past and whose outputs do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.checks.alter import noised
from torchstone.checks.bisect import difference, scale_of
from torchstone.checks.probe import Probe, noise_floor, probing
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.siblings import some_siblings_keep_the_past
from torchstone.checks.streams import Stream, changed_from, has_decoder, other_values, read_stream, shown

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

_LONG = 259
"""Tokens of the long probe: beyond the edges of 128 and 256."""
_FAR_EDGES = (72, 80, 96, 128, 192, 256)
_HINT = (
    "mask scores of later positions before the softmax (is_causal=True, or a lower-triangular mask), "
    "and let no mean, convolution or norm run over the token axis"
)


@dataclass(frozen=True)
class Leak:
    """Two batches that agree where they must, and how far the outputs part."""

    how: str
    cut: int
    difference: float
    limit: float
    clean: Stream
    changed: Batch
    by_labels: bool = False
    reshaped: bool = False


def causal_leak(context: Context) -> CheckResult:
    kind = context.task.kind
    # Models of text and images look back or not as their authors chose: their layers tell.
    certain = context.adapter.guess.certain and kind != "multimodal"
    if kind == "seq2seq" and not has_decoder(context):
        return context.skipped("the decoder takes vectors: its causal mask is the caller's business")
    looks_back = (
        kind in ("causal-lm", "seq2seq") or has_decoder(context) or (not certain and context.takes_tokens)
    )
    if not looks_back and not context.signature.has("labels"):
        return context.skipped(f"task is {kind}")
    with context.taken_apart(), probing(context) as probe:
        stream = read_stream(context, probe, context.plan.length, context.plan.batch_size)
        if isinstance(stream, str):
            return context.skipped(stream)
        main = shown(probe.run(stream.batch))
        if not bool(torch.isfinite(main).any()):
            return context.skipped("the outputs are not finite; see numerical-stability")
        if not has_decoder(context) and (leak := _by_labels(probe, stream, main)):
            return _convict(context, probe, leak, certain=True)
        if not looks_back:
            return context.skipped(f"task is {kind}")
        if noise_floor(probe, stream.batch) > probe.limit(main):
            return context.skipped("two equal calls differ; see state-leak and eval-determinism")
        heard = [0.0]
        for leak in _leaks(probe, stream, main, heard):
            return _convict(context, probe, leak, certain)
        with noised(context):
            opened = shown(probe.run(stream.batch))
            if bool(torch.isfinite(opened).all()):
                cuts = context.plan.few_cuts
                for leak in _by_content(probe, stream, opened, cuts, "with noise on the weights", []):
                    return _convict(context, probe, leak, certain, closed=True)
                for leak in _by_gradient(context, probe, stream, cuts[: len(cuts) - 1]):
                    return _convict(context, probe, leak, certain, closed=True)
        return _acquit(context, probe, stream, main, heard[0])


def _leaks(probe: Probe, stream: Stream, main: Tensor, heard: list[float]) -> Iterator[Leak]:
    """Every way to look ahead with the weights as they are, the plainest first."""
    context = probe.context
    cuts = tuple(cut for cut in context.plan.cuts if cut < stream.length)
    few = tuple(cut for cut in context.plan.few_cuts if cut < stream.length)
    yield from _by_content(probe, stream, main, cuts, "", heard)
    if not probe.random:
        yield from _by_length(probe, stream, main, few)
    if context.signature.has("mask") and stream.name == context.primary:
        for masked, how in _masked(stream)[len(few) < 3 :]:
            reference = shown(probe.run(masked.batch))
            yield from _by_content(probe, masked, reference, few, how, [])
    yield from _far_away(probe, stream)
    if stream.rows > 1:
        alone = replace(stream, batch={**stream.batch, **_first_row(stream.batch)})
        yield from _by_content(probe, alone, shown(probe.run(alone.batch)), few, "with one row", [])


def _far_away(probe: Probe, stream: Stream) -> Iterator[Leak]:
    """One long row: windows, chunks and tables often have an edge that a short probe never meets."""
    context = probe.context
    length = min(context.plan.longest, _LONG)
    if length <= stream.length or context.plan.side_length < context.plan.length:
        return
    far = read_stream(context, probe, length, 1)
    if isinstance(far, Stream):
        cuts = tuple(cut for cut in (*_FAR_EDGES, length - 1) if stream.length <= cut < length)
        yield from _by_content(probe, far, shown(probe.run(far.batch)), cuts, "in a long sequence", [])


def _by_content(
    probe: Probe, stream: Stream, main: Tensor, cuts: tuple[int, ...], how: str, heard: list[float]
) -> Iterator[Leak]:
    """Other tokens from the cut on; `heard` collects how much the outputs after the cut reacted."""
    limit = probe.limit(main)
    for cut in cuts:
        others = other_values(probe.context, stream.values, seed=cut)
        batch = stream.replaced(changed_from(stream.values, others, cut))
        changed = shown(probe.run(batch))
        heard.append(difference(stream.future(main, cut), stream.future(changed, cut)))
        gap = difference(stream.past(main, cut), stream.past(changed, cut))
        if gap > limit:
            yield Leak(how, cut, gap, limit, stream, batch)
    heard[:] = [max(heard, default=0.0)]


def _by_length(probe: Probe, stream: Stream, main: Tensor, cuts: tuple[int, ...]) -> Iterator[Leak]:
    """The sequence without its end: earlier outputs must not notice that it is shorter."""
    if set(stream.batch) != {stream.name} and stream.name == "input_ids":
        return
    limit = probe.limit(main, reshaped=True)
    for cut in cuts:
        batch = stream.replaced(stream.values[:, :cut].clone())
        shorter = shown(probe.run(batch))
        if shorter.shape[1] != cut + stream.offset:
            continue
        gap = difference(stream.past(main, cut), shorter)
        if gap > limit:
            yield Leak("when the sequence grows", cut, gap, limit, stream, batch, reshaped=True)


def _by_labels(probe: Probe, stream: Stream, main: Tensor) -> Leak | None:
    """Other labels: the outputs must be the same, else the answer is in the question."""
    if not probe.context.signature.has("labels") or stream.values.is_floating_point():
        return None
    labels = stream.values.clone()
    if main.shape[1] != stream.length:
        return None
    clean = {**stream.batch, "labels": labels}
    changed = {**stream.batch, "labels": other_values(probe.context, labels, seed=3)}
    try:
        first, second = shown(probe.run(clean)), shown(probe.run(changed))
    except (RuntimeError, ValueError, IndexError, TypeError):
        # Labels of another form than one per token (classes, spans): this probe has nothing to say.
        return None
    if first.shape != second.shape or first.dim() < 2:
        return None
    gap, limit = difference(first, second), probe.limit(first)
    return (
        Leak("through the labels", 0, gap, limit, replace(stream, batch=clean), changed, by_labels=True)
        if gap > limit
        else None
    )


def _unlabelled_view(tensor: Tensor, is_input: bool) -> list[Tensor]:
    """Labels are integers and losses are small: what remains are the states and the logits."""
    return [tensor] if tensor.is_floating_point() and (is_input or tensor.dim() >= 2) else []


def _by_gradient(context: Context, probe: Probe, stream: Stream, cuts: tuple[int, ...]) -> Iterator[Leak]:
    """d(output before the cut) / d(embedding after it) must be zero, however faint the path."""
    if not probe.exact or stream.values.is_floating_point():
        return
    for cut in cuts:
        with _embedded(context.module, stream.values) as taken, torch.enable_grad():
            try:
                main = shown_with_graph(probe, stream)
                past = stream.past(main, cut)
                generator = torch.Generator().manual_seed(cut)
                weights = torch.randn(past.shape, generator=generator, dtype=torch.float64).to(past)
                if len(taken) != 1 or not past.requires_grad:
                    return
                (gradient,) = torch.autograd.grad((past * weights).sum(), taken, allow_unused=True)
            except RuntimeError:
                # In-place writes and custom kernels without a backward pass: no statement.
                return
        if gradient is None:
            return
        gap, limit = float(gradient[:, cut:].abs().max()), 1e-9 * max(scale_of(gradient[:, :cut]), 1e-12)
        if gap > limit:
            others = other_values(context, stream.values, seed=cut)
            changed = stream.replaced(changed_from(stream.values, others, cut))
            yield Leak("in the gradient", cut, gap, limit, stream, changed)


def shown_with_graph(probe: Probe, stream: Stream) -> Tensor:
    output = probe.run(stream.batch, grad=True)
    return output.logits if output.logits is not None else output.main


@contextmanager
def _embedded(module: nn.Module, ids: Tensor) -> Iterator[list[Tensor]]:
    """Catches what the embedding of `ids` gives, as leaves of the graph."""
    taken: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].shape == ids.shape and torch.equal(args[0], ids):
            leaf = output.detach().clone().requires_grad_(True)
            taken.append(leaf)
            # A view, so that in-place additions after the embedding are allowed.
            return leaf * 1.0
        return output

    handles = [
        each.register_forward_hook(hook) for each in module.modules() if isinstance(each, nn.Embedding)
    ]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _convict(context: Context, probe: Probe, leak: Leak, certain: bool, closed: bool = False) -> CheckResult:
    view = _unlabelled_view if leak.by_labels else leak.clean.view(max(leak.cut, 1))
    guilty = None if leak.reshaped else probe.guilty(leak.clean.batch, leak.changed, view)
    name = guilty.name if guilty else type(context.module).__name__ if leak.by_labels else None
    details: dict[str, Any] = {
        "cut": leak.cut, "how": leak.how or "other tokens after the cut", "length": leak.clean.length,
        "precision": "float64" if probe.exact else "as it is", "kind": guilty.kind if guilty else None,
    }  # fmt: skip
    fields: dict[str, Any] = {
        "measured": leak.difference, "limit": leak.limit, "unit": "max abs",
        "module": name, "details": details,
    }  # fmt: skip
    where = f" ({name})" if name else ""
    if leak.by_labels:
        return context.failed(
            f"the labels change the outputs{where}: the answer is in the question",
            hint="use labels only to compute the loss, after the logits are finished",
            **fields,
        )
    if not certain and guilty and not some_siblings_keep_the_past(probe, leak.clean, leak.cut, guilty):
        details["reasons"] = list(context.adapter.guess.reasons)
        if context.task.kind != "causal-lm":
            return context.skipped(
                f"task is {context.task.kind} (guessed; every layer looks ahead, as encoders do)",
                details=details,
            )
        return context.warned(
            f"every layer looks ahead{where}: right for an encoder, a leak if this is to be a causal model",
            hint="say what it is with task='causal-lm' or task='encoder'",
            **fields,
        )
    if closed:
        details["closed_by_zero_weight"] = True
        return context.failed(
            f"a path from later tokens to earlier outputs exists{where}; a weight near zero closes it",
            hint=_HINT,
            **fields,
        )
    if leak.reshaped:
        summary = f"outputs before position {leak.cut} change when tokens are appended"
    else:
        how = f", {leak.how}" if leak.how else ""
        summary = f"tokens from position {leak.cut} on change outputs before it{where}{how}"
    return context.failed(summary, hint=_HINT, **fields)


def _acquit(context: Context, probe: Probe, stream: Stream, main: Tensor, heard: float) -> CheckResult:
    details = {
        "length": stream.length,
        "cuts": list(context.plan.cuts),
        "precision": "float64" if probe.exact else "as it is",
    }
    if heard <= probe.limit(main):
        return context.warned(
            "nothing to see: the outputs do not react to the tokens at all",
            measured=heard, limit=probe.limit(main), unit="max abs", details=details,
        )  # fmt: skip
    guilty = _in_training(context, stream)
    if guilty is not None:
        return context.warned(
            f"in training mode, and only there, later tokens change earlier outputs ({guilty[0]})",
            measured=guilty[1], limit=guilty[2], unit="max abs", module=guilty[0], details=details,
            hint="a norm or a statistic over batch and tokens shows the model its future while it learns",
        )  # fmt: skip
    return context.passed(
        f"no output knows a later token ({len(context.plan.cuts)} cuts in {stream.length} tokens)",
        measured=0.0, limit=probe.limit(main), unit="max abs", details=details,
    )  # fmt: skip


def _in_training(context: Context, stream: Stream) -> tuple[str, float, float] | None:
    """The same probe in training mode, where statistics over batch and time are alive."""
    probe = Probe(context, exact=context.cache["traits"].exact, stateful=True)
    probe.relative_limit = context.cache["traits"].relative_limit
    cut = stream.length // 2
    others = other_values(context, stream.values, seed=cut)
    batch = stream.replaced(changed_from(stream.values, others, cut))
    with context.mode(train=True):
        try:
            main, changed = shown(probe.run(stream.batch)), shown(probe.run(batch))
        except (RuntimeError, ValueError):
            return None
        gap, limit = difference(stream.past(main, cut), stream.past(changed, cut)), probe.limit(main)
        # Randomness that depends on the tokens (routing noise) is no leak; equal calls must agree.
        if not gap > limit or noise_floor(probe, stream.batch) > limit:
            return None
        guilty = probe.guilty(stream.batch, batch, stream.view(cut))
    return (guilty.name, gap, limit) if guilty else None


def _masked(stream: Stream) -> list[tuple[Stream, str]]:
    ones = torch.ones(stream.values.shape[:2], dtype=torch.long, device=stream.values.device)
    padded = ones.clone()
    # On the right: a row of padding on the left attends to nothing, and what it says is nobody's business.
    padded[:, stream.length - stream.length // 5 :] = 0
    return [
        (stream.with_entries(attention_mask=ones), "with a mask of ones"),
        (stream.with_entries(attention_mask=padded), "with padding hidden on the right"),
    ]


def _first_row(batch: Batch) -> Batch:
    return {name: value[:1] for name, value in batch.items() if isinstance(value, Tensor)}


CHECKS.add(
    Check(
        "causal-leak",
        tier=1,
        title="future tokens stay unseen",
        proves="A token never changes an output that stands before it.",
        run=causal_leak,
    )
)
