"""One loss rule per task: which logits are compared with which targets, summed and counted.

A rule gives the *sum* of the losses and the *number* of targets, never a mean. Only who sees the whole
window of micro-batches can divide, and then any split of the same tokens gives the same gradient.
-100 marks a target that does not count.

Letters: B batch, T tokens, S source tokens, V vocabulary, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone._errors import DataError
from torchstone._registry import Registry

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Batch = dict[str, Any]
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Token ids that some rules need and only the tokenizer or the model can tell."""

    vocab_size: int | None = None
    mask: int | None = None
    """Replaces hidden tokens in masked language modelling."""
    decoder_start: int | None = None
    """First decoder input of a sequence-to-sequence model."""
    pad: int | None = None


@dataclass(frozen=True, kw_only=True)
class LossRule:
    """How one kind of task is scored."""

    name: str
    """The `kind` of a TaskSpec."""
    summary: str
    source: str
    align: Callable[[Tensor, Batch], tuple[Tensor, Tensor]]
    """(logits, batch) -> (logits (..., K), targets (...)) that belong together."""
    count: Callable[[Batch], int]
    """Targets in a batch, known before the forward pass."""
    unit: str = "examples"
    """What its targets are called, several of them."""
    prepare: Callable[[Batch, SpecialIds, torch.Generator | None], Batch] | None = None
    """What has to happen to a batch first: hide tokens, shift decoder inputs."""
    read: Callable[[Any], Tensor | None] | None = None
    """What of the model's raw output is scored; None: its logits."""
    labels: tuple[str, ...] = ("labels",)
    """Entries of a batch that are compared with; the model is not shown them."""
    is_squared: bool = False
    """Squared error instead of a cross entropy."""
    has_perplexity: bool = False
    """Whether exp(loss) means something: the targets are tokens."""
    written: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    """labels (B, T) -> (targets, the token before each), where all targets in a row make up a text; a loss
    over them can be told in bits per byte."""


LOSSES: Registry[LossRule] = Registry("task")


def loss_sum(rule: LossRule, logits: Tensor, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
    """Sum of the losses over the targets that count, in at least float32.

    `class_weights` (K,) multiplies the loss of each target by the weight of its class. The mean is over the
    targets, as in Keras; torch's own weighted mean divides by the weights of the batch, which would make
    the gradient depend on how the data is cut into batches.
    """
    aligned, targets = rule.align(logits, batch)
    # 16-bit logits lose the small differences that the log-sum-exp is made of.
    aligned = aligned if aligned.dtype == torch.float64 else aligned.float()
    if rule.is_squared:
        return F.mse_loss(aligned, targets.to(aligned.dtype), reduction="sum")
    weights = None if class_weights is None else class_weights.to(aligned)
    if targets.is_floating_point():
        return F.binary_cross_entropy_with_logits(
            aligned, targets.to(aligned.dtype), weight=weights, reduction="sum"
        )
    return F.cross_entropy(
        aligned.reshape(-1, aligned.shape[-1]),
        targets.reshape(-1),
        weight=weights,
        ignore_index=IGNORED,
        reduction="sum",
    )


def num_correct(rule: LossRule, logits: Tensor, batch: Batch) -> Tensor | None:
    """How many of the counted targets the most likely class hits; None where there are no classes."""
    if rule.is_squared:
        return None
    aligned, targets = rule.align(logits, batch)
    if targets.is_floating_point():
        return ((aligned > 0) == (targets > 0.5)).sum()
    return (aligned.argmax(-1) == targets).sum()


# --- causal language modelling ------------------------------------------------------------------


def shifted_targets(labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The target at each position is the next token; the last position has none.

    Shifting the labels instead of the logits saves a copy of the (B, T, V) logits.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _align_causal(logits: Float[Tensor, "B T V"], batch: Batch) -> tuple[Tensor, Tensor]:
    labels = _labels(batch)
    if logits.ndim != 3 or labels.ndim != 2 or logits.shape[:2] != labels.shape:
        raise DataError(
            "logits and labels of a causal language model do not fit together",
            where=f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}",
            why="expected logits (B, T, V) and labels (B, T)",
        )
    return logits, shifted_targets(labels)


def _count_causal(batch: Batch) -> int:
    return _num_counted(_labels(batch)[:, 1:])


LOSSES.add(
    LossRule(
        name="causal-lm",
        summary="predict the next token; labels are the inputs, shifted here and only here",
        unit="tokens",
        source="Bengio et al. 2003",
        align=_align_causal,
        count=_count_causal,
        has_perplexity=True,
        written=lambda labels: (labels[:, 1:], labels[:, :-1]),
    )
)

# --- masked language modelling ------------------------------------------------------------------


def hide_tokens(batch: Batch, ids: SpecialIds, generator: torch.Generator | None) -> Batch:
    """15 % of the tokens become targets: 80 % of them hidden, 10 % replaced, 10 % left as they are.

    Labels that already differ from the inputs were made by a collator and stay.
    """
    inputs, labels = batch["input_ids"], _labels(batch)
    if not torch.equal(labels.where(labels != IGNORED, inputs), inputs) or bool((labels == IGNORED).all()):
        return batch
    if ids.mask is None or ids.vocab_size is None:
        raise DataError(
            "masked language modelling needs a mask token",
            why="neither the tokenizer nor the model's config has a mask_token_id",
            next="use a tokenizer with a mask token, or a collator that makes labels",
        )
    chosen = (torch.rand(inputs.shape, generator=generator) < 0.15) & (labels != IGNORED)
    lot = torch.rand(inputs.shape, generator=generator)
    random_ids = torch.randint(ids.vocab_size, inputs.shape, generator=generator)
    hidden = torch.where(chosen & (lot < 0.8), torch.full_like(inputs, ids.mask), inputs)
    hidden = torch.where(chosen & (lot >= 0.9), random_ids.to(inputs.dtype), hidden)
    return {**batch, "input_ids": hidden, "labels": torch.where(chosen, inputs, IGNORED)}


def _align_same_positions(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    labels = _labels(batch)
    if logits.ndim != labels.ndim + 1 or logits.shape[:-1] != labels.shape:
        raise DataError(
            "logits and labels do not fit together",
            where=f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}",
            why="expected one row of logits per label",
        )
    return logits, labels


def _count_labels(batch: Batch) -> int:
    labels = _labels(batch)
    return labels.numel() if labels.is_floating_point() else _num_counted(labels)


LOSSES.add(
    LossRule(
        name="masked-lm",
        summary="guess hidden tokens from both sides",
        unit="tokens",
        source="Devlin et al. 2018, arXiv:1810.04805, section 3.1",
        align=_align_same_positions,
        count=_count_labels,
        prepare=hide_tokens,
        has_perplexity=True,
    )
)

# --- sequence to sequence -----------------------------------------------------------------------


def shift_decoder_inputs(batch: Batch, ids: SpecialIds, generator: torch.Generator | None) -> Batch:
    """Decoder inputs are the labels one place to the right, behind the start token."""
    if "decoder_input_ids" in batch:
        return batch
    start = ids.decoder_start if ids.decoder_start is not None else ids.pad
    if start is None:
        raise DataError(
            "the decoder needs a first token",
            why="the model's config has neither decoder_start_token_id nor pad_token_id",
            next="put decoder_input_ids into the batches",
        )
    labels = _labels(batch)
    filler = ids.pad if ids.pad is not None else start
    shifted = F.pad(labels[:, :-1], (1, 0), value=start)
    return {**batch, "decoder_input_ids": torch.where(shifted == IGNORED, filler, shifted)}


LOSSES.add(
    LossRule(
        name="seq2seq",
        summary="predict each target token from the source and the targets before it",
        unit="tokens",
        source="Sutskever et al. 2014, arXiv:1409.3215",
        align=_align_same_positions,
        count=_count_labels,
        prepare=shift_decoder_inputs,
        has_perplexity=True,
        written=lambda labels: (labels, F.pad(labels[:, :-1], (1, 0), value=IGNORED)),
    )
)

# --- classification -----------------------------------------------------------------------------


def _align_classes(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    labels = _labels(batch)
    if labels.is_floating_point() and labels.shape == logits.shape:
        return logits, labels  # several classes may hold at once
    if logits.ndim == 3 and labels.ndim <= 1:
        logits = _last_attended(logits, batch.get("attention_mask"))
    if logits.ndim == 2 and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return _align_same_positions(logits, {"labels": labels})


def _last_attended(logits: Float[Tensor, "B T K"], mask: Tensor | None) -> Float[Tensor, "B K"]:
    """The last position that is no padding, on whichever side the padding is."""
    if mask is None:
        return logits[:, -1]
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask.bool(), places, 0).amax(dim=1)
    return logits[torch.arange(len(last), device=mask.device), last]


LOSSES.add(
    LossRule(
        name="classification",
        summary="one class per example or per token; float labels: several classes per example",
        source="cross entropy, binary cross entropy",
        align=_align_classes,
        count=_count_labels,
    )
)
LOSSES.add(
    LossRule(
        name="token-classification",
        summary="one class per token; -100 marks pieces of words that do not count",
        unit="tokens",
        source="Devlin et al. 2018, arXiv:1810.04805, section 5.3",
        align=_align_same_positions,
        count=_count_labels,
    )
)


def _align_vision(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    if logits.ndim == 4:  # segmentation (B, K, height, width)
        logits = logits.movedim(1, -1)
    return _align_classes(logits, batch)


LOSSES.add(
    LossRule(
        name="vision",
        summary="one class per image, or per pixel",
        unit="images",
        source="cross entropy",
        align=_align_vision,
        count=_count_labels,
    )
)


# --- question answering -------------------------------------------------------------------------

POSITIONS = ("start_positions", "end_positions")


def _read_span(raw: Any) -> Tensor | None:
    """Start and end logits of an extractive head, one beside the other: (B, 2, T)."""
    start, end = getattr(raw, "start_logits", None), getattr(raw, "end_logits", None)
    if not isinstance(start, Tensor) or not isinstance(end, Tensor):
        return None
    return torch.stack([start, end], dim=1)


def _span_targets(batch: Batch, num_tokens: int) -> Int[Tensor, "B 2"]:
    """Places outside the text (an answer that was cut away) do not count."""
    absent = [name for name in POSITIONS if batch.get(name) is None]
    if absent:
        raise DataError(
            f"the batch has no labels: {' and '.join(absent)} is missing",
            where=f"keys of the batch: {', '.join(batch)}",
            next="give the first and the last token of each answer",
        )
    targets = torch.stack([batch[name].reshape(-1) for name in POSITIONS], dim=1)
    return targets.where((targets >= 0) & (targets < num_tokens), IGNORED)


def _align_span(logits: Float[Tensor, "B 2 T"], batch: Batch) -> tuple[Tensor, Tensor]:
    targets = _span_targets(batch, logits.shape[-1])
    if logits.ndim != 3 or logits.shape[:2] != targets.shape:
        raise DataError(
            "logits and answers do not fit together",
            where=f"logits {tuple(logits.shape)}, answers {tuple(targets.shape)}",
            why="expected logits of start and end, (B, 2, T), and as many answers",
        )
    return logits, targets


def _count_span(batch: Batch) -> int:
    ids = batch.get("input_ids")
    return _num_counted(_span_targets(batch, ids.shape[1] if isinstance(ids, Tensor) else 1 << 62))


LOSSES.add(
    LossRule(
        name="question-answering",
        summary="the first and the last token of the answer in a text; two targets per example",
        unit="targets",
        source="Devlin et al. 2018, arXiv:1810.04805, section 4.2",
        align=_align_span,
        count=_count_span,
        read=_read_span,
        labels=POSITIONS,
    )
)

# --- regression ---------------------------------------------------------------------------------


def _align_values(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    labels = _labels(batch)
    if values.ndim == labels.ndim + 1 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.shape != labels.shape:
        raise DataError(
            "outputs and labels do not fit together",
            where=f"outputs {tuple(values.shape)}, labels {tuple(labels.shape)}",
            why="expected one number per label",
        )
    return values, labels


LOSSES.add(
    LossRule(
        name="regression",
        summary="numbers instead of classes: the squared error",
        unit="values",
        source="least squares",
        align=_align_values,
        count=lambda batch: _labels(batch).numel(),
        is_squared=True,
    )
)


def _num_counted(labels: Tensor) -> int:
    if labels.device.type == "cpu" and labels.numel() and int(labels.min()) > IGNORED:
        return labels.numel()  # the usual case, in one pass
    return int((labels != IGNORED).sum())


def _labels(batch: Batch) -> Tensor:
    labels = batch.get("labels")
    if labels is None:
        raise DataError(
            "the batch has no labels",
            where=f"keys of the batch: {', '.join(batch)}",
            next="let the dataset or the collator give 'labels'",
        )
    return labels
