"""Mistakes in models, engines and settings, as small patches; `mutants.py` says which claim catches which."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.config.resolve import Resolved
from torchstone.train.constraint import FREE

# --- how models are patched ---------------------------------------------------------------------


def after(module: nn.Module, act: Callable[[Any, tuple[Any, ...], Any], Any]) -> None:
    """`act(module, inputs, output)` gives the output that the module has from now on."""
    module.register_forward_hook(lambda own, inputs, output: act(own, inputs, output))


def on_attention(change: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[Any], None]:
    """Change what the attention of the last block gives: (module, out (B, T, C)) -> out."""

    def patch(model: Any) -> None:
        attention = model.blocks[-1].attention
        after(attention, lambda own, _, given: given._replace(out=change(own, given.out)))

    return patch


def on_mlp(change: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[Any], None]:
    """The same for the MLP of the last block."""

    def patch(model: Any) -> None:
        mlp = model.blocks[-1].mlp
        after(mlp, lambda own, _, given: given._replace(out=change(own, given.out)))

    return patch


def mixed_over_tokens(out: Tensor) -> Tensor:
    return out + out.mean(dim=1, keepdim=True)


def top_token(out: Tensor) -> Tensor:
    """A gate from the strongest of all tokens."""
    best = out.norm(dim=-1).argmax(dim=1)
    return out * (1 + out[torch.arange(len(out)), best, :1][:, None])


def peek(out: Tensor) -> Tensor:
    return out + F.pad(out[:, 1:], (0, 0, 0, 1))


def mixed_over_rows(out: Tensor) -> Tensor:
    return out - out.mean(dim=0, keepdim=True)


def kept_with_its_graph(own: Any, out: Tensor) -> Tensor:
    """The context that a block reads is its own of the call before."""
    before = getattr(own, "context", None)
    own.context = out
    return out if before is None or before.shape != out.shape else out + 0.1 * before


def kept_as_values(own: Any, out: Tensor) -> Tensor:
    before = getattr(own, "context", None)
    own.context = out.detach()
    return out if before is None or before.shape != out.shape else out + 0.1 * before


def extra_parameter(model: Any) -> None:
    """A projection that is made and never used."""
    model.blocks[0].mlp.register_parameter("down", nn.Parameter(torch.zeros(1, device=device_of(model))))


def device_of(model: Any) -> torch.device:
    return next(iter(model.parameters())).device


def in_place_of(name: str) -> Callable[[Any], None]:
    """The gradient of some parameter is cut off on its way."""

    def patch(model: Any) -> None:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        inner = module.forward
        weight = getattr(module, leaf)

        def forward(x: Tensor) -> Tensor:
            return F.linear(x, weight.detach(), module.bias)

        assert inner is not None
        module.forward = forward

    return patch


def if_it_is_large(model: Any) -> None:
    """A learned choice that is used in a plain `if` only."""
    gate = nn.Parameter(torch.ones((), device=device_of(model)))
    model.blocks[0].mlp.register_parameter("choice", gate)
    if gate.is_meta:
        return
    after(
        model.blocks[0].mlp,
        lambda own, _, given: given._replace(out=given.out * (2.0 if float(own.choice) > 0 else 1.0)),
    )


def frozen(model: Any) -> None:
    model.blocks[0].mlp.widen.weight.requires_grad_(False)


def outside_of_the_model(model: Any) -> None:
    """A tensor that learns nothing and is saved nowhere, made anew by each process."""
    model.blocks[0].mlp.scale = torch.rand(model.config.d_model, device=device_of(model)) + 0.5
    after(model.blocks[0].mlp, lambda own, _, given: given._replace(out=given.out * own.scale.to(given.out)))


def counter_in_python(model: Any) -> None:
    """A warm-up that counts calls in an attribute, which no checkpoint holds."""
    mlp = model.blocks[0].mlp
    mlp.calls = 0

    def grow(own: Any, _: Any, given: Any) -> Any:
        if own.training and not given.out.is_meta:
            own.calls += 1
        return given._replace(out=given.out * (1 + 0.01 * own.calls)) if own.training else given

    after(mlp, grow)


def noisy_in_evaluation(model: Any) -> None:
    after(model.blocks[0].mlp, lambda own, _, given: given._replace(out=F.dropout(given.out, 0.1, True)))


def never_dropped(model: Any) -> None:
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
        if hasattr(each, "dropout") and isinstance(each.dropout, float):
            each.dropout = 0.0


def untied(model: Any) -> None:
    model.head.weight = nn.Parameter(model.token_embedding.weight.detach().clone())


def forgets_keys(model: Any) -> None:
    """A cache whose keys are those of another place."""

    def shift(own: Any, _: Any, given: Any) -> Any:
        return (
            given._replace(cache=(given.cache[0].roll(1, dims=-1), *given.cache[1:]))
            if given.cache
            else given
        )

    after(model.blocks[0].attention, shift)


def keeps_twice(model: Any) -> None:
    """What the cache holds once would do."""

    def double(own: Any, inputs: Any, output: Any) -> Any:
        if output.past_key_values is None:
            return output
        copies = tuple((*each, each[0].clone(), each[1].clone()) for each in output.past_key_values)
        output.past_key_values = copies
        return output

    after(model, double)


def xavier(model: Any) -> None:
    for block in model.blocks:
        nn.init.xavier_uniform_(block.attention.qkv.weight)


def norms_begin_at_half(model: Any) -> None:
    nn.init.constant_(model.final_norm.weight, 0.5)


def both_paths(model: Any) -> None:
    """Another width of the MLP is computed beside the one that counts."""
    for block in model.blocks:
        after(block.mlp, lambda own, inputs, given: (own.widen(inputs[0]), given)[1])


def not_a_number(model: Any) -> None:
    """Square roots of what may be negative."""
    after(
        model.blocks[0].mlp,
        lambda own, _, given: given._replace(out=given.out.sqrt() if own.training else given.out),
    )


def crashes_when_called_again(model: Any) -> None:
    mlp = model.blocks[0].mlp
    seen: list[Tensor] = []

    def remember(own: Any, _: Any, given: Any) -> Any:
        if own.training and torch.is_grad_enabled() and not given.out.is_meta:
            seen.append(given.out.mean())
            return given._replace(out=given.out + 0 * seen[0])
        return given

    after(mlp, remember)


# --- how engines are patched --------------------------------------------------------------------


def each_group(**options: Any) -> Callable[[Any], None]:
    def patch(engine: Any) -> None:
        for group in engine.optimizer.param_groups:
            group.update(options)

    return patch


def decays_by(share: float) -> Callable[[Any], None]:
    """What is decayed is decayed as it always was."""

    def patch(engine: Any) -> None:
        for group in engine.optimizer.param_groups:
            if group["weight_decay"]:
                group["weight_decay"] = share

    return patch


def never_steps(engine: Any) -> None:
    engine.optimizer.step = types.MethodType(lambda own, closure=None: None, engine.optimizer)


def plain_sgd(engine: Any) -> None:
    """The routine that gives the optimizer its name is not called."""
    import torch.optim as optim

    groups = [dict(group) for group in engine.optimizer.param_groups]
    keep = {"params", "lr", "weight_decay"}
    engine.optimizer = optim.SGD([{key: each[key] for key in keep} for each in groups])


def plain_amsgrad(engine: Any) -> None:
    """What the optimizer does beyond its base is never called."""
    keep = ("params", "lr", "weight_decay", "betas", "eps", "amsgrad")
    groups = [{key: group[key] for key in keep} for group in engine.optimizer.param_groups]
    engine.optimizer = torch.optim.AdamW(groups)
    engine.recipe.update.gradients.preparations.clear()


def prunes_never(engine: Any) -> None:
    """Pruning by a configuration that the trainer ignores."""
    engine.constraint = FREE
    engine.recipe.update.gradients.preparations.clear()


def forgets_masks(engine: Any) -> None:
    """What is saved are masks that keep everything."""
    pruner = engine.constraint
    inner = pruner.load_state_dict

    def load_state_dict(own: Any, state: Any) -> None:
        inner(state)
        for mask in own.masks.values():
            mask.fill_(1)
        own.promised = 0

    inner_state = pruner.state_dict

    def state_dict(own: Any) -> dict[str, Any]:
        state = inner_state()
        masks = {name: torch.full_like(each, 255) for name, each in state["masks"].items()}
        return {**state, "masks": masks, "promised": 0}

    pruner.state_dict = types.MethodType(state_dict, pruner)
    pruner.load_state_dict = types.MethodType(load_state_dict, pruner)


def moments_stand_still(engine: Any) -> None:
    """The second moment is made once and never again."""
    kept: dict[int, Tensor] = {}

    def put_back(optimizer: Any, *_: Any) -> None:
        for place, state in enumerate(optimizer.state.values()):
            state["exp_avg_sq"].copy_(kept.setdefault(place, state["exp_avg_sq"].clone()))

    engine.optimizer.register_step_post_hook(put_back)


def leaves_one_out(engine: Any) -> None:
    for group in engine.optimizer.param_groups:
        if len(group["params"]) > 2:
            group["params"].pop()
            return


def saves_half(engine: Any) -> None:
    """The first moment is not in the checkpoint."""
    optimizer = engine.optimizer
    inner = optimizer.state_dict

    def state_dict(own: Any) -> dict[str, Any]:
        state = inner()
        kept = {place: dict(each) for place, each in state["state"].items()}
        for each in kept.values():
            each["exp_avg"] = torch.zeros_like(each["exp_avg"])
        return {**state, "state": kept}

    optimizer.state_dict = types.MethodType(state_dict, optimizer)


def half_the_rate(engine: Any) -> None:
    inner = engine.learning_rate
    engine.learning_rate = lambda step: 0.5 * inner(step)


def rises_twice(engine: Any) -> None:
    """The step counter is counted up twice."""
    inner = engine.learning_rate
    engine.learning_rate = lambda step: inner(2 * step)


def other_order(subject: Any) -> None:
    subject.batches.seed += 1


def instead(key: str, value: Any) -> Callable[[Resolved], Resolved]:
    """A setting is never forwarded to the model, which gets the base's."""
    return lambda settings: settings.with_values({key: value})


def off_by_one(key: str) -> Callable[[Resolved], Resolved]:
    """int(3.3333333333 * 768) is 2559."""
    return lambda settings: settings.with_values({key: settings.plain[key] - 1})
