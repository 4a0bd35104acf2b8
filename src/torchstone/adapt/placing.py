"""Arguments whose name says nothing: the operation that consumes one says what it is.

`forward(self, x)` may take ids, images or vectors. Each is offered in turn, and the first operation that
computes with it decides: an embedding table, a convolution, a product. What no offer places keeps the role
"unknown".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.adapt.probe import Consumer, Sight, watch
from torchstone.adapt.signature import MAIN_ROLES, Argument, Signature

_DECODER_WORDS = (
    "tgt",
    "trg",
    "dec",
    "decoder_input",
    "dec_input",
    "tgt_seq",
    "target_seq",
    "y",
    "tgt_input",
)
_DECISIVE = (
    "embedding",
    "index",
    "embedding_bag",
    "one_hot",
    "conv1d",
    "conv2d",
    "conv3d",
    "linear",
    "matmul",
)


def place_by_probing(module: nn.Module, signature: Signature) -> Signature:
    """Give required unknown arguments the role that the operations consuming them show."""
    unknown = [each for each in signature.arguments if each.role == "unknown" and each.required]
    known = [each for each in signature.required if each.role in MAIN_ROLES]
    if not unknown or known or any(each.required for each in signature.of_role("intermediate")):
        return signature
    if any(each.required and each.role not in ("unknown", "mask", "labels") for each in signature.arguments):
        return signature
    for offer in _offers(module):
        sight, result = _look(module, signature, unknown, offer)
        found = {each.name: _decide(sight, each.name, offer, result) for each in unknown}
        if found[unknown[0].name] is not None:
            return _placed(signature, unknown, found)
    return signature


def width_of(module: nn.Module) -> int:
    """Width of the vectors that the first layer with a width takes; 8 when there is none."""
    for each in module.modules():
        if isinstance(each, nn.MultiheadAttention):
            return each.embed_dim
        if isinstance(each, nn.LayerNorm):
            return int(each.normalized_shape[-1])
        if isinstance(each, nn.Linear):
            return each.in_features
    return 8


def _offers(module: nn.Module) -> list[Tensor]:
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    channels = next((each.in_channels for each in module.modules() if isinstance(each, nn.Conv2d)), 3)
    sounds = next((each.in_channels for each in module.modules() if isinstance(each, nn.Conv1d)), 1)
    width = width_of(module)
    return [
        torch.zeros(1, 4, dtype=torch.long, device=device),
        torch.zeros(1, channels, 32, 32, device=device),
        torch.zeros(1, 4, width, device=device),
        torch.zeros(1, width, device=device),
        torch.zeros(1, sounds, 1600, device=device),
    ]


def _look(
    module: nn.Module, signature: Signature, unknown: list[Argument], offer: Tensor
) -> tuple[Sight, Any]:
    given = {each.name: offer.clone() for each in unknown}
    mask = torch.ones(offer.shape[:2], dtype=torch.long, device=offer.device)
    fillers = {each.name: mask for each in signature.required if each.role == "mask"}
    by_position = [each.name for each in signature.arguments if each.kind == "positional-only"]

    def call() -> Any:
        values: dict[str, Any] = {**given, **fillers}
        args = [values.pop(name) for name in by_position if name in values]
        return module(*args, **values)

    return watch(module, given, call)


def _decide(sight: Sight, name: str, offer: Tensor, result: Any) -> str | None:
    ids = not offer.is_floating_point()
    for consumer in sight.consumers[name]:
        if consumer.operation in _DECISIVE:
            # Even an operation that refused the offer has shown what it wants.
            return _role_of(consumer)
    ran = not isinstance(result, Exception)
    return _role_of(sight.consumers[name][0]) if ran and not ids and sight.consumers[name] else None


def _role_of(consumer: Consumer) -> str:
    if consumer.operation in ("embedding", "index", "embedding_bag", "one_hot"):
        return "ids"
    return {"conv2d": "pixels", "conv3d": "pixels", "conv1d": "audio"}.get(consumer.operation, "embeddings")


def _placed(signature: Signature, unknown: list[Argument], found: dict[str, str | None]) -> Signature:
    changed: dict[str, Argument] = {}
    for place, argument in enumerate(unknown):
        role = found[argument.name]
        if role is None:
            continue
        natural = "" if place == 0 else argument.name
        if place and argument.name.lower() in _DECODER_WORDS:
            natural = "decoder_input_ids" if role == "ids" else "decoder_inputs_embeds"
            role = "decoder_ids" if role == "ids" else role
        why = f"probing: {role} are what the operation that consumes it takes"
        changed[argument.name] = replace(argument, role=role, natural_name=natural, why=why)
    return Signature(
        tuple(changed.get(each.name, each) for each in signature.arguments), signature.accepts_any_keyword
    )
