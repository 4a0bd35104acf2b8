"""What a mask argument means: 1 keeps or True hides, decided by what it does.

A batch carries `attention_mask` with 1 for tokens and 0 for padding. An argument called `mask` or
`key_padding_mask` may want the opposite, or no padding mask at all. The test is the meaning itself: with the
right form, a mask of nothing changes nothing, and changing a hidden token changes no visible output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchstone.adapt.binding import Binding
from torchstone.adapt.examples import Examples
from torchstone.adapt.facts import ModelFacts, device_of, with_note
from torchstone.adapt.output import read_output
from torchstone.adapt.probe import REFUSALS, quiet
from torchstone.adapt.signature import Argument

_CLEAR = ("attention_mask", "decoder_attention_mask", "encoder_attention_mask", "pixel_mask")
Form = Callable[[Tensor], Tensor]


def _as_given(mask: Tensor) -> Tensor:
    return mask


def _as_bool(mask: Tensor) -> Tensor:
    return mask != 0


def _hides(mask: Tensor) -> Tensor:
    return mask == 0


def _broadcast(mask: Tensor) -> Tensor:
    return (mask != 0)[:, None, None, :]


def _looking_back(mask: Tensor) -> Tensor:
    """Nothing later is seen; 1 keeps."""
    length = mask.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()


def _looking_back_hides(mask: Tensor) -> Tensor:
    return ~_looking_back(mask)


_PADDING_FORMS: dict[str, Form] = {
    "1 keeps": _as_given,
    "True keeps": _as_bool,
    "True hides": _hides,
    "True keeps, over heads and queries": _broadcast,
}
_OTHER_FORMS: dict[str, Form] = {
    "causal, True keeps": _looking_back,
    "causal, True hides": _looking_back_hides,
}


def settle_masks(binding: Binding, facts: ModelFacts) -> ModelFacts:
    """Find the form that each mask argument wants, and teach it to `binding`."""
    for argument in binding.signature.of_role("mask"):
        if argument.name in _CLEAR:
            continue
        if "key_padding" in argument.name:
            binding.convert(argument.name, _hides)
            continue
        if any(each.name in _CLEAR for each in binding.signature.of_role("mask")):
            binding.forget(argument.name)
            continue
        facts = _settle(binding, facts, argument)
    for argument in binding.signature.of_role("decoder_mask"):
        if "key_padding" in argument.name:
            binding.convert(argument.name, _hides)
    return facts


def provisional_masks(binding: Binding) -> Iterator[str]:
    """Give a required mask of unclear meaning one form after the other, until the caller is content."""
    unclear = [
        each for each in binding.signature.of_role("mask") if each.required and each.name not in _CLEAR
    ]
    for meaning, form in {**_PADDING_FORMS, **_OTHER_FORMS}.items():
        for argument in unclear:
            binding.convert_only(argument.name, form)
            yield f"{argument.name}: {meaning}"


def _settle(binding: Binding, facts: ModelFacts, argument: Argument) -> ModelFacts:
    found = binding.conversion(argument.name)
    binding.convert_only(argument.name, None)
    for meaning, form in _PADDING_FORMS.items():
        if _works(binding, facts, argument, form):
            binding.convert(argument.name, form)
            return with_note(facts, f"{argument.name}: {meaning}, by probing")
    if not argument.required:
        binding.forget(argument.name)
        return with_note(facts, f"{argument.name} is not a padding mask in any known form; it is left out")
    for meaning, form in _OTHER_FORMS.items():
        if _runs_causally(binding, facts, argument, form):
            binding.convert(argument.name, form)
            return with_note(facts, f"{argument.name}: {meaning}, by probing")
    binding.convert_only(argument.name, found)
    return facts


def _works(binding: Binding, facts: ModelFacts, argument: Argument, form: Form) -> bool:
    """Hide two tokens: the others must not notice a change there; hide none: nothing must change."""
    batch = _batch(binding, facts)
    main = next(iter(batch.values()))
    shown = torch.ones(main.shape[:2], dtype=torch.long, device=main.device)
    hidden = shown.clone()
    hidden[:, :2] = 0
    other = {name: _changed(value, facts) for name, value in batch.items()}
    a = _main(binding, {**batch, argument.name: form(hidden)})
    b = _main(binding, {**other, argument.name: form(hidden)})
    all_shown = _main(binding, {**batch, argument.name: form(shown)})
    if a is None or b is None or all_shown is None or a.dim() < 2 or a.shape[:2] != main.shape[:2]:
        return False
    if not argument.required:
        plain = _main(binding, batch)
        if plain is None or not _close(plain, all_shown):
            return False
    differs = not _close(a[:, 2:], all_shown[:, 2:])
    return _close(a[:, 2:], b[:, 2:]) and differs and bool(torch.isfinite(all_shown).all())


def _runs_causally(binding: Binding, facts: ModelFacts, argument: Argument, form: Form) -> bool:
    batch = _batch(binding, facts)
    name, main = next(iter(batch.items()))
    shown = torch.ones(main.shape[:2], dtype=torch.long, device=main.device)
    later = main.clone()
    later[:, -1] = _changed(main, facts)[:, 0]
    a = _main(binding, {**batch, argument.name: form(shown)})
    b = _main(binding, {**batch, name: later, argument.name: form(shown)})
    return a is not None and b is not None and a.dim() == 3 and _close(a[:, :-1], b[:, :-1])


def _batch(binding: Binding, facts: ModelFacts) -> dict[str, Tensor]:
    limit = facts.max_seq_len or 7
    return Examples(binding.signature, facts, device=device_of(binding.base)).batch(2, length=min(7, limit))


def _changed(value: Tensor, facts: ModelFacts) -> Tensor:
    """Other values in the first two tokens."""
    value = value.clone()
    if value.is_floating_point():
        value[:, :2] = value[:, :2] + 1.0
    else:
        value[:, :2] = (value[:, :2] + 1) % max(facts.vocab_size or 2, 2)
    return value


def _main(binding: Binding, batch: dict[str, Any]) -> Tensor | None:
    with quiet(binding.base):
        try:
            return read_output(binding.call(batch)).main.float()
        except REFUSALS:
            return None


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5))
