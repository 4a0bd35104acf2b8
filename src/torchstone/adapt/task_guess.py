"""What a model is for, read from its signature, its configuration and its behaviour; uncertainty is told.

No architecture is known by name. A head's suffix (`...ForMaskedLM`) is what the author says about the
purpose, and outranks behaviour: a decoder with a leak is still a causal language model, and its leak is a
fault to be found.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from torchstone.adapt.facts import ModelFacts
from torchstone.adapt.measure import Behaviour
from torchstone.adapt.signature import Signature

_HEADS = (
    ("ForCausalLM", "causal-lm"),
    ("LMHeadModel", "causal-lm"),
    ("ForMaskedLM", "masked-lm"),
    ("ForSequenceClassification", "classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForMultipleChoice", "classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForNextSentencePrediction", "classification"),
    ("ForSeq2SeqLM", "seq2seq"),
    ("ForImageClassification", "vision"),
)


@dataclass(frozen=True)
class TaskGuess:
    """A kind, how sure we are, and why."""

    kind: str
    certain: bool
    reasons: tuple[str, ...] = ()


def guess_task(module: nn.Module, signature: Signature, facts: ModelFacts, behaviour: Behaviour) -> TaskGuess:
    """The inputs decide the modality, the head and the output the purpose."""
    said = _said(module, facts)
    text = signature.has("ids") or signature.has("decoder_ids")
    if signature.has("pixels") and text:
        return TaskGuess("multimodal", True, ("ids and pixels come in",))
    if signature.has("pixels") or (signature.has("grid") and not text):
        return TaskGuess("vision", True, ("pixels come in",))
    if signature.has("audio") and signature.has("ids"):
        return TaskGuess("multimodal", True, ("ids and audio come in",))
    if signature.has("audio"):
        return TaskGuess("audio", True, ("audio comes in",))
    if said in ("classification", "token-classification", "question-answering"):
        return TaskGuess(said, True, ("its head says so",))
    pair = signature.has("decoder_ids") or any(
        "decoder" in each.natural for each in signature.of_role("embeddings") if each.required
    )
    if pair and facts.config.own("is_encoder_decoder") is not False:
        return TaskGuess("seq2seq", True, ("a second sequence goes into a decoder",))
    if said == "causal-lm" and behaviour.looks_ahead and facts.config.own("causal", "is_causal") is False:
        return TaskGuess("masked-lm", True, ("its config says that it is not causal", *_seen(behaviour)))
    if said is not None:
        return TaskGuess(said, True, ("its head says so", *_seen(behaviour)))
    if not behaviour.ran:
        return _unrun(signature, facts, behaviour)
    return _by_output(signature, facts, behaviour)


def _said(module: nn.Module, facts: ModelFacts) -> str | None:
    """What the class or the config's `architectures` end with."""
    names = [type(module).__name__]
    listed = facts.config.own("architectures")
    if isinstance(listed, (list, tuple)):
        names += [str(each) for each in listed]
    return next((kind for name in names for suffix, kind in _HEADS if name.endswith(suffix)), None)


def _seen(behaviour: Behaviour) -> tuple[str, ...]:
    return ("a later token changes an earlier output",) if behaviour.looks_ahead else ()


def _by_output(signature: Signature, facts: ModelFacts, behaviour: Behaviour) -> TaskGuess:
    shape = behaviour.shape
    if facts.vocab_size is not None and len(shape) == 3 and shape[-1] == facts.vocab_size:
        return _language_model(signature, facts, behaviour)
    if facts.num_classes is not None and shape[-1:] == (facts.num_classes,):
        return TaskGuess(
            "classification", True, (f"{facts.num_classes} numbers come out, as many as classes",)
        )
    if len(shape) == 2 and behaviour.main_name not in ("last_hidden_state", "pooler_output"):
        if shape[-1] == facts.vocab_size:
            return TaskGuess("causal-lm", False, ("one distribution over the vocabulary per row comes out",))
        certain = shape[-1] != facts.d_model
        return TaskGuess("classification", certain, (f"{shape[-1]} numbers per row come out",))
    if len(shape) == 3 and (shape[-1] == facts.d_model or behaviour.main_name == "last_hidden_state"):
        return TaskGuess("encoder", True, ("vectors as wide as the model come out",))
    return TaskGuess("encoder", False, (f"the shape {shape} comes out, which says little",))


def _language_model(signature: Signature, facts: ModelFacts, behaviour: Behaviour) -> TaskGuess:
    wide = "the output is as wide as the vocabulary"
    if behaviour.looks_ahead is False:
        return TaskGuess("causal-lm", True, (wide, "no later token changes an earlier output"))
    if facts.config.own("is_decoder", "causal", "is_causal") is True:
        return TaskGuess("causal-lm", True, (wide, "its config says decoder", *_seen(behaviour)))
    if behaviour.causal_attention:
        return TaskGuess("causal-lm", True, (wide, "attention in it is causal", *_seen(behaviour)))
    if facts.config.own("mask_token_id") is not None or signature.has("token_types"):
        return TaskGuess("masked-lm", True, (wide, "it knows masks or token types", *_seen(behaviour)))
    undecided = "nothing says whether that is meant (masked) or a leak (causal)"
    return TaskGuess("causal-lm", False, (wide, *_seen(behaviour), undecided))


def _unrun(signature: Signature, facts: ModelFacts, behaviour: Behaviour) -> TaskGuess:
    kind = "causal-lm" if signature.has("ids") else "encoder"
    return TaskGuess(kind, False, (f"no example input was accepted: {behaviour.refusal}",))
