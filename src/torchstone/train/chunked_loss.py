"""A language model's loss over chunks of tokens: the (B*T, V) logits are never there in float32 at once.

    loss, correct = head_loss(hidden, head.weight, head.bias, targets, chunk=1024)
    loss, correct = logits_loss(logits, targets, chunk=1024)

The logits of 8,192 tokens over 50,257 words take 1.6 GB in float32, and a plain cross entropy holds them some
three times (logits, log-softmax, gradient). Here one chunk of them exists at a time, and its gradient
is made at once, while it is at hand; so nothing is computed twice.

From hidden states no logits are ever whole; from logits, which a model may have capped or scaled, only their
float32 copy and log-softmax are made by the chunk. Which of the two a model allows, `split_head.py` finds.
The idea of making gradients in the forward pass is that of Liger (Hsu et al. 2024, arXiv:2410.10989).

Letters: N tokens, C model width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from jaxtyping import Float, Int

IGNORED = -100
WORTH_BYTES = 256 << 20
"""Float32 logits of a micro-batch that are worth being cut."""
CHUNK_BYTES = 64 << 20
"""Float32 logits of one chunk, where the size of a chunk is left to us."""

Scores = tuple[Tensor, Tensor]
"""Sum of the losses, number of hits."""


def chunk_of(wanted: int | None, num_tokens: int, vocab_size: int) -> int | None:
    """Tokens per chunk for `train.loss_chunk`; None: all at once. 0 cuts only what is worth it."""
    if wanted is None or wanted > 0:
        return wanted
    if 4 * num_tokens * vocab_size <= WORTH_BYTES:
        return None
    return max(1, CHUNK_BYTES // (4 * vocab_size))


# --- from hidden states -------------------------------------------------------------------------


def head_loss(
    hidden: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    chunk: int,
    num_outputs: int | None = None,
) -> Scores:
    """Cross entropy of `hidden @ weight.T + bias`, summed over the targets that count, and the hits.

    Of the rows of `weight` the first `num_outputs` count (None: all).
    """
    learns = torch.is_grad_enabled()
    return _HeadLoss.apply(hidden, weight, bias, targets, chunk, num_outputs, learns)  # type: ignore[no-untyped-call]


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        num_outputs: int | None,
        learns: bool,
    ) -> Scores:
        kind = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        needs = [learns and each for each in ctx.needs_input_grad[:3]]
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        # Sums over chunks are kept in the weights' own precision, also where the products are in 16 bits.
        grad_weight = torch.zeros_like(weight) if needs[1] else None
        grad_bias = torch.zeros_like(bias) if needs[2] and bias is not None else None
        loss = torch.zeros((), dtype=exact, device=hidden.device)
        correct = torch.zeros((), dtype=torch.long, device=hidden.device)
        with torch.autocast(kind, enabled=False):
            matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, hidden.shape[0], chunk):
                part, goal = hidden[start : start + chunk].to(dtype), targets[start : start + chunk]
                scores = F.linear(part, matrix, offset).to(exact)
                if num_outputs is not None:
                    scores[:, num_outputs:] = float("-inf")
                chunk_loss, chunk_correct, lse = _score(scores, goal)
                loss += chunk_loss
                correct += chunk_correct
                if not any(needs):
                    continue
                slope = _slope(scores, goal, lse).to(dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + chunk] = slope @ matrix
                if grad_weight is not None:
                    if grad_weight.dtype == dtype:
                        grad_weight.addmm_(slope.T, part)
                    else:
                        grad_weight += slope.T @ part
                if grad_bias is not None:
                    grad_bias += slope.sum(0, dtype=exact).to(grad_bias.dtype)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a chunked loss can be traversed backwards once")
        made, ctx.gradients = ctx.gradients, None
        scaled = [None if each is None else each.mul_(grad_loss.to(each.dtype)) for each in made]
        return (*scaled, None, None, None, None)


# --- from logits --------------------------------------------------------------------------------


def logits_loss(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], chunk: int) -> Scores:
    """Cross entropy of logits that are there already; their float32 form is made by the chunk."""
    return _LogitsLoss.apply(logits, targets, chunk)  # type: ignore[no-untyped-call]


class _LogitsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, chunk: int) -> Scores:
        exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
        loss = torch.zeros((), dtype=exact, device=logits.device)
        correct = torch.zeros((), dtype=torch.long, device=logits.device)
        lse = torch.empty(logits.shape[0], dtype=exact, device=logits.device)
        for start in range(0, logits.shape[0], chunk):
            part = slice(start, start + chunk)
            chunk_loss, chunk_correct, lse[part] = _score(logits[part].to(exact), targets[part])
            loss += chunk_loss
            correct += chunk_correct
        ctx.chunk = chunk
        ctx.save_for_backward(logits, targets, lse)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, lse = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for start in range(0, logits.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            # A copy even where nothing is converted: the logits are not ours to overwrite.
            scores = logits[part].to(lse.dtype, copy=True)
            gradient[part] = _slope(scores, targets[part], lse[part]).mul_(grad_loss)
        return gradient, None, None


def _score(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the losses, hits, and log-sum-exp of each row."""
    counted = targets != IGNORED
    lse = scores.logsumexp(-1)
    picked = scores.gather(-1, targets.where(counted, 0)[:, None])[:, 0]
    loss = (lse - picked).where(counted, 0).sum()
    # Where nothing counts the target is -100, which no class is.
    return loss, (scores.argmax(-1) == targets).sum(), lse


def _slope(scores: Tensor, targets: Tensor, lse: Tensor) -> Tensor:
    """Softmax minus the truth, in place of `scores`; zero where nothing counts."""
    counted = targets != IGNORED
    scores.sub_(lse[:, None]).exp_()
    scores.scatter_add_(
        1, targets.where(counted, 0)[:, None], scores.new_full((1, 1), -1.0).expand(len(targets), 1)
    )
    return scores.mul_(counted[:, None])
