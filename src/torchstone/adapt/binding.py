"""Natural names -> the model's own: a plan made once, so that a call costs a few dictionary look-ups.

`Binding` knows the signature and, for a builder's export, how intermediates are computed. It knows
no sizes: `measure.py` uses it to probe, `adapter.py` to call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._errors import ModelError
from torchstone._registry import suggest
from torchstone.adapt.graph import GraphPlan, plan_graph
from torchstone.adapt.signature import Argument, Signature, unwrap

Filler = Callable[[Mapping[str, Any]], Any]
"""Makes the value of a required argument that the batch left out, from the batch."""

_MAY_BE_DROPPED = ("attention_mask", "decoder_attention_mask", "pixel_mask", "position_ids", "labels")


class Binding:
    """How a batch reaches `forward` of one module."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        self.module = module
        self.base = unwrap(module)
        self.signature = signature
        self.graph: GraphPlan | None = plan_graph(self.base, signature)
        self.turned = False
        """Whether the model wants time first: ids and masks are transposed on their way in."""
        self.dropped: set[str] = set()
        self.labels_filled = ""
        """Own name of the labels that we give when the batch has none."""
        self._forgotten: set[str] = set()
        self._own = self._own_names()
        self._turns: dict[str, Callable[[Any], Any]] = {}
        self._fillers: tuple[tuple[str, Filler], ...] = self._required()
        self._positional = tuple(each.name for each in signature.arguments if each.kind == "positional-only")

    def bind(self, batch: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` for `module(*args, **kwargs)`; intermediates are computed."""
        args, kwargs = self.place(batch)
        if self.graph is not None:
            kwargs = {**kwargs, **self.graph.intermediates(kwargs)}
        return args, kwargs

    def call(self, batch: Mapping[str, Any]) -> Any:
        """What the model returns for `batch`, unread."""
        args, kwargs = self.place(batch)
        if self.graph is None:
            return self.module(*args, **kwargs)
        if self.module is self.base:
            return self.graph.run(kwargs)
        return self.module(**kwargs, **self.graph.intermediates(kwargs))

    def place(self, batch: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Rename, convert and complete; without intermediates."""
        own = self._own
        kwargs: dict[str, Any] = {}
        for name, value in batch.items():
            place = own.get(name)
            if place is not None:
                if place in kwargs:
                    raise ModelError(
                        f"two entries of the batch mean the argument {place}", why=f"one of them is {name}"
                    )
                kwargs[place] = value
            else:
                self._no_place(name, value, kwargs)
        for name, fill in self._fillers:
            if name not in kwargs:
                kwargs[name] = fill(kwargs)
        for name, turn in self._turns.items():
            if kwargs.get(name) is not None:
                kwargs[name] = turn(kwargs[name])
        if not self._positional:
            return (), kwargs
        return self._by_position(kwargs)

    def convert(self, name: str, turn: Callable[[Any], Any]) -> None:
        """Pass own argument `name` through `turn` on its way in."""
        before = self._turns.get(name)
        self._turns[name] = turn if before is None else (lambda value: turn(before(value)))

    def always_label(self) -> None:
        """Give the ids as labels where the batch has none: some models answer fully only then."""
        labels = next((each.name for each in self.signature.of_role("labels")), "")
        ids = next((each.name for each in self.signature.of_role("ids")), "")
        self.labels_filled = labels
        self._fillers = (*self._fillers, (labels, lambda given: given[ids]))

    def convert_only(self, name: str, turn: Callable[[Any], Any] | None) -> None:
        """As `convert`, instead of what was there before; None takes it away."""
        self._turns.pop(name, None)
        if turn is not None:
            self._turns[name] = turn

    def conversion(self, name: str) -> Callable[[Any], Any] | None:
        return self._turns.get(name)

    def forget(self, name: str) -> None:
        """Own argument `name` is not what its natural name promises: only its own name reaches it."""
        self._forgotten.add(name)
        self._own = self._own_names()

    def turn(self) -> None:
        """The model wants time first: turn what has batch and time as its first two dimensions."""
        self.turned = True
        for each in self.signature.arguments:
            if each.role in ("ids", "decoder_ids", "embeddings", "token_types"):
                self.convert(each.name, _turned)

    def takes(self, name: str) -> bool:
        """Whether a batch entry of this natural name reaches the model."""
        return name in self._own or self.signature.accepts_any_keyword

    def own_name(self, natural: str) -> str | None:
        return self._own.get(natural)

    def _own_names(self) -> dict[str, str]:
        own: dict[str, str] = {}
        for each in self.signature.arguments:
            if each.kind in ("var-positional", "var-keyword") or each.role == "intermediate":
                continue
            own[each.name] = each.name
        # Of two masks the one whose name speaks of padding is meant.
        by_clearness = sorted(self.signature.arguments, key=lambda each: "padding" not in each.name)
        for each in by_clearness:
            if each.role != "intermediate" and each.name not in self._forgotten:
                own.setdefault(each.natural, each.name)
        return own

    def _no_place(self, name: str, value: Any, kwargs: dict[str, Any]) -> None:
        if self.signature.accepts_any_keyword:
            kwargs[name] = value
        elif value is None or name in _MAY_BE_DROPPED:
            self.dropped.add(name)
        else:
            known = sorted(self._own)
            raise ModelError(
                f"the model takes no {name}",
                where=f"{type(self.base).__name__}.{self.signature}",
                why=suggest(name, known),
                next=f"leave it out of the batch; the model takes {', '.join(known)}",
            )

    def _required(self) -> tuple[tuple[str, Filler], ...]:
        fillers: list[tuple[str, Filler]] = []
        for each in self.signature.arguments:
            if each.required and each.role != "intermediate":
                fillers.append((each.name, self._filler(each)))
        return tuple(fillers)

    def _filler(self, argument: Argument) -> Filler:
        main = next(
            (
                each.name
                for role in ("ids", "embeddings")
                for each in self.signature.of_role(role)
                if each is not argument
            ),
            "",
        )
        role = argument.role
        if role == "mask" and main:
            return lambda given: torch.ones(
                given[main].shape[:2], dtype=torch.long, device=given[main].device
            )
        if role == "positions" and main:
            return lambda given: torch.arange(given[main].shape[1], device=given[main].device).expand(
                given[main].shape[:2]
            )
        if role == "token_types" and main:
            return lambda given: torch.zeros_like(given[main])
        if role == "decoder_mask":
            decoder = next((each.name for each in self.signature.of_role("decoder_ids")), main)
            return lambda given: torch.ones_like(given[decoder])
        if role in ("labels", "cache"):
            return lambda given: None
        if role == "flag":
            return lambda given: False
        return lambda given: self._refuse(argument, given)

    def _refuse(self, argument: Argument, given: Mapping[str, Any]) -> Any:
        if argument.role == "unknown":
            raise ModelError(
                f"nothing says what the argument {argument.name} of forward is for",
                where=f"{type(self.base).__name__}.{self.signature}",
                why="it is required, and neither its name nor the operations of the model place it",
                next=f"give it a default, or pass it by its own name: adapter({argument.name}=...)",
            )
        raise ModelError(
            f"the batch holds no {argument.natural}",
            where=f"{type(self.base).__name__}.{self.signature}",
            why=f"forward requires {argument.name}; the batch gave {', '.join(given) or 'nothing'}",
            next=f"pass {argument.natural}=...",
        )

    def _by_position(self, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        for name in self._positional:
            if name not in kwargs:
                if any(later in kwargs for later in self._positional):
                    args.append(self.signature[name].default)
                    continue
                break
            args.append(kwargs.pop(name))
        return tuple(args), kwargs


def _turned(value: Tensor) -> Tensor:
    return value.transpose(0, 1)
