"""Mistakes that labs really made, each as a small patch of a model, an engine or a configuration.

A sound step says what it does; each mutant of it is the same step with one mistake, and the claim that must
catch it. `sound()` and `with_mutants()` give the studies, `bench()` the patched doors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study import mistakes

from torchstone.config.resolve import Resolved
from torchstone.study.prove.bench import Bench, load_model, make_engine, model_of
from torchstone.study.records import Step, Study

BASE = {
    "model.target": "zoo:gpt-nano",
    "model.vocab_size": 128,
    "model.max_seq_len": 64,
    "model.d_model": 48,
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.d_ff": 96,
    "data.sequence_length": 64,
    "optim.learning_rate": 1e-3,
    "optim.weight_decay": 0.1,
    "train.batch_size": 8,
    "train.max_steps": 60,
}

STEPS = [
    Step(id="0", claims={"parameters": "=47232"}),
    Step(
        id="narrow",
        parent="0",
        set={"model.d_ff": 48},
        claims={
            "parameters": "-9312",
            "flops": "-1179648",
            "kv_bytes_per_token": "+0",
            "output": "differs",
            "neutral": {"model.d_ff": 96},
        },
    ),
    Step(
        id="heads",
        parent="0",
        set={"model.num_heads": 2},
        claims={"parameters": "+0", "flops": "+0", "output": "differs", "neutral": {"model.num_heads": 4}},
    ),
    Step(
        id="shallow",
        parent="0",
        set={"model.num_layers": 1},
        claims={"parameters": "-18960", "kv_bytes_per_token": "x0.50", "output": "differs"},
    ),
    Step(
        id="dropout",
        parent="0",
        set={"model.dropout": 0.1},
        claims={"parameters": "+0", "output": "equal", "start": "equal", "update": "differs"},
    ),
    Step(
        id="decay",
        parent="0",
        set={"optim.weight_decay": 0.4},
        claims={"parameters": "+0", "output": "equal", "update": "differs"},
    ),
    Step(
        id="pruned",
        parent="0",
        set={"prune.method": "magnitude", "prune.sparsity": 0.7},
        claims={"parameters": "+0", "output": "equal", "update": "differs", "sparsity": 0.7},
    ),
    Step(
        id="spam",
        parent="0",
        set={
            "optim.name": "adamwspam",
            "optim.amsgrad": True,
            "optim.spam_interval": 20,
            "optim.spam_warmup": 10,
        },
        claims={
            "output": "equal",
            "update": "differs",
            "optimizer_state": ["exp_avg", "max_exp_avg_sq"],
            "changed": ["schedule"],  # it warms up again after each reset
        },
    ),
    Step(
        id="momentum",
        parent="0",
        set={"optim.beta1": 0.5},
        claims={"output": "equal", "update": "differs", "optimizer_state": ["exp_avg", "exp_avg_sq", "step"]},
    ),
]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One mistake in `step`, and the claim that catches it."""

    name: str
    step: str
    claim: str
    settings: Callable[[Resolved], Resolved] | None = None
    """What the model is built from, against what was asked for."""
    model: Callable[[Any], None] | None = None
    recipe: Callable[[Resolved], Resolved] | None = None
    """What its engine is made from, likewise."""
    subject: Callable[[Any], None] | None = None
    """Before its engine is made."""
    engine: Callable[[Any], None] | None = None
    set: dict[str, Any] | None = None
    """What the step sets beyond what it says."""

    @property
    def id(self) -> str:
        return f"{self.step}.{self.name}"


MUTANTS = [
    Mutant(
        name="width-never-applied",
        step="narrow",
        claim="parameters",
        settings=mistakes.instead("model.d_ff", 96),
    ),
    Mutant(
        name="width-cut-off", step="narrow", claim="parameters", settings=mistakes.off_by_one("model.d_ff")
    ),
    Mutant(
        name="same-as-parent", step="narrow", claim="distinct", settings=mistakes.instead("model.d_ff", 96)
    ),
    Mutant(name="both-paths-computed", step="narrow", claim="flops", model=mistakes.both_paths),
    Mutant(
        name="not-neutral", step="narrow", claim="neutral", model=mistakes.on_mlp(lambda own, out: 1.1 * out)
    ),
    Mutant(name="head-untied", step="narrow", claim="parameters", model=mistakes.untied),
    Mutant(name="made-never-used", step="narrow", claim="gradient", model=mistakes.extra_parameter),
    Mutant(name="re-initialised", step="narrow", claim="unchanged init", model=mistakes.xavier),
    Mutant(
        name="norms-begin-elsewhere",
        step="narrow",
        claim="unchanged init",
        model=mistakes.norms_begin_at_half,
    ),
    Mutant(
        name="variant-never-forwarded",
        step="heads",
        claim="output",
        settings=mistakes.instead("model.num_heads", 4),
    ),
    Mutant(
        name="gate-over-all-tokens",
        step="heads",
        claim="causal-leak",
        model=mistakes.on_attention(lambda own, out: mistakes.mixed_over_tokens(out)),
    ),
    Mutant(
        name="best-of-all-tokens",
        step="heads",
        claim="causal-leak",
        model=mistakes.on_attention(lambda own, out: mistakes.top_token(out)),
    ),
    Mutant(
        name="one-token-ahead",
        step="heads",
        claim="causal-leak",
        model=mistakes.on_attention(lambda own, out: mistakes.peek(out)),
    ),
    Mutant(
        name="rows-mixed",
        step="heads",
        claim="batch-leak",
        model=mistakes.on_attention(lambda own, out: mistakes.mixed_over_rows(out)),
    ),
    Mutant(
        name="context-of-the-last-call",
        step="heads",
        claim="state-leak",
        model=mistakes.on_attention(mistakes.kept_as_values),
    ),
    Mutant(
        name="graph-of-the-last-call",
        step="heads",
        claim="training",
        model=mistakes.on_attention(mistakes.kept_with_its_graph),
    ),
    Mutant(
        name="crashes-at-the-second", step="heads", claim="training", model=mistakes.crashes_when_called_again
    ),
    Mutant(
        name="cut-off-from-learning",
        step="heads",
        claim="gradient",
        model=mistakes.in_place_of("blocks.0.attention.qkv.weight"),
    ),
    Mutant(name="learned-in-an-if", step="heads", claim="gradient", model=mistakes.if_it_is_large),
    Mutant(name="frozen", step="heads", claim="moves", model=mistakes.frozen),
    Mutant(
        name="nowhere-registered",
        step="heads",
        claim="unregistered-parameters",
        model=mistakes.outside_of_the_model,
    ),
    Mutant(name="warm-up-in-python", step="heads", claim="resume", model=mistakes.counter_in_python),
    Mutant(
        name="noise-in-evaluation", step="heads", claim="eval-determinism", model=mistakes.noisy_in_evaluation
    ),
    Mutant(name="cache-of-other-keys", step="heads", claim="cache-parity", model=mistakes.forgets_keys),
    Mutant(name="not-a-number", step="heads", claim="training", model=mistakes.not_a_number),
    Mutant(name="cache-kept-twice", step="shallow", claim="kv_bytes_per_token", model=mistakes.keeps_twice),
    Mutant(
        name="depth-never-applied",
        step="shallow",
        claim="parameters",
        settings=mistakes.instead("model.num_layers", 2),
    ),
    Mutant(name="never-dropped", step="dropout", claim="update", model=mistakes.never_dropped),
    Mutant(
        name="acts-at-the-start",
        step="dropout",
        claim="start",
        model=mistakes.on_mlp(lambda own, out: 1.1 * out),
    ),
    Mutant(
        name="output-changed-too",
        step="dropout",
        claim="output",
        model=mistakes.on_mlp(lambda own, out: 1.1 * out),
    ),
    Mutant(name="never-decayed", step="decay", claim="update", engine=mistakes.decays_by(0.1)),
    Mutant(
        name="other-betas",
        step="decay",
        claim="unchanged optimizer",
        engine=mistakes.each_group(betas=(0.9, 0.95)),
    ),
    Mutant(name="other-eps", step="decay", claim="unchanged optimizer", engine=mistakes.each_group(eps=1e-3)),
    Mutant(name="half-the-rate", step="decay", claim="unchanged schedule", engine=mistakes.half_the_rate),
    Mutant(name="counted-twice", step="decay", claim="unchanged schedule", engine=mistakes.rises_twice),
    Mutant(name="other-order", step="decay", claim="unchanged data", subject=mistakes.other_order),
    Mutant(name="steps-never", step="decay", claim="moves", engine=mistakes.never_steps),
    Mutant(name="one-left-out", step="decay", claim="moves", engine=mistakes.leaves_one_out),
    Mutant(
        name="sparsity-never-forwarded",
        step="pruned",
        claim="sparsity",
        recipe=mistakes.instead("prune.sparsity", 0.01),
    ),
    Mutant(name="never-pruned", step="pruned", claim="sparsity", engine=mistakes.prunes_never),
    Mutant(name="masks-not-saved", step="pruned", claim="resume", engine=mistakes.forgets_masks),
    Mutant(name="routine-never-called", step="spam", claim="changed schedule", engine=mistakes.plain_amsgrad),
    Mutant(name="routine-never-called", step="momentum", claim="optimizer_state", engine=mistakes.plain_sgd),
    Mutant(
        name="moments-stand-still",
        step="momentum",
        claim="optimizer_state",
        engine=mistakes.moments_stand_still,
    ),
    Mutant(name="state-not-saved", step="momentum", claim="resume", engine=mistakes.saves_half),
    Mutant(name="smaller-batch", step="momentum", claim="tokens_per_update", set={"train.batch_size": 4}),
    Mutant(name="more-iterations", step="momentum", claim="updates", set={"train.max_steps": 72}),
    Mutant(
        name="another-optimizer-too",
        step="momentum",
        claim="update",
        engine=mistakes.each_group(betas=(0.9, 0.999)),
    ),
]


# --- the two studies ----------------------------------------------------------------------------


def study(steps: list[Step]) -> Study:
    return Study(
        name="mutants",
        kind="ablation",
        path=Path("mutants.toml"),
        label="mutants.toml",
        set=BASE,
        places=dict.fromkeys(BASE, "base"),
        steps=tuple(steps),
    )


def placed(step: Step, **changes: Any) -> Step:
    from dataclasses import replace

    step = replace(step, **changes)
    return replace(step, places=dict.fromkeys(step.set, step.id))


def sound() -> Study:
    return study([placed(each) for each in STEPS])


def with_mutants() -> Study:
    """The sound steps, then every mutant, as a step beside the one that it is a mutant of."""
    by_id = {each.id: each for each in STEPS}
    mutants = [(by_id[each.step], each) for each in MUTANTS]
    return study(
        [
            *sound().steps,
            *(placed(right, id=each.id, set={**right.set, **(each.set or {})}) for right, each in mutants),
        ]
    )


def bench() -> Bench:
    """The doors of a training job, with a mistake behind those of a mutant."""
    by_id = {each.id: each for each in MUTANTS}

    def load(arm: str, settings: Resolved) -> Any:
        mutant = by_id.get(arm)
        if mutant is not None and mutant.settings is not None:
            settings = mutant.settings(settings)
        loaded = load_model(arm, settings)
        if mutant is not None and mutant.model is not None:
            mutant.model(loaded.module)
        return loaded

    def engine(arm: str, subject: Any, settings: Resolved, folder: Path, found: Any) -> Any:
        mutant = by_id.get(arm)
        if mutant is not None and mutant.subject is not None:
            mutant.subject(subject)
        if mutant is not None and mutant.recipe is not None:
            settings = mutant.recipe(settings)
        made = make_engine(arm, subject, settings, folder, found)
        if mutant is not None and mutant.engine is not None:
            mutant.engine(made)
        return made

    def model(arm: str, settings: Resolved) -> str:
        mutant = by_id.get(arm)
        own = mutant is not None and (mutant.settings is not None or mutant.model is not None)
        return model_of(arm, settings) + (arm if own else "")

    return Bench(load=load, model_of=model, engine=engine)
