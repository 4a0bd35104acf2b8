"""The check job: read the model, plan the probes, run the checks, report. It reads from top to bottom.

`check` is for Python users, `run` for the command line, `job` for the isolated worker.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import TorchstoneError, in_one_line
from torchstone._seeds import preserved_rng, seed_everything
from torchstone.checks.context import Context
from torchstone.checks.given import GivenExamples, named_inputs
from torchstone.checks.keep import Kept
from torchstone.checks.plan import choose_plan
from torchstone.checks.registry import Check, choose
from torchstone.checks.report import CheckReport
from torchstone.checks.stranger import run_stranger
from torchstone.tracking.records import CheckResult

if TYPE_CHECKING:
    from torch import nn

    from torchstone.adapt.load import LoadedModel
    from torchstone.config.resolve import Resolved
    from torchstone.data.task import TaskSpec

log = logging.getLogger(__name__)
CERTIFICATE = "parity.json"
"""In the folder of a run: what `check --only parity` found of its model."""
Progress = Callable[[str], None]


def check(
    model: nn.Module | LoadedModel | str | Path,
    inputs: Any = None,
    config: Any = None,
    task: TaskSpec | str | None = None,
    tiers: Sequence[int] = (1,),
    only: Sequence[str] | None = None,
    skip: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    budget_s: float = 60.0,
    progress: Progress | None = None,
    wishes: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Prove `model` (a module, a loaded model or a TARGET); it comes back exactly as it was.

    `inputs` is anything that a plain call accepts: a tensor, a tuple, or a dict of keyword arguments.
    `wishes` holds what checks of tiers 3 and 5 are told: `baseline`, `data` (a source, or rows), `reference`.
    """
    started = time.perf_counter()
    chosen = choose(tiers, _names(only), _names(skip))
    module, facts_of_target, open_adapter = _open(model, config, task, seed)
    with _undisturbed(module, device):
        # Reading a model runs it; what such a pass leaves in the module must not count as the model's own.
        untouched = Kept(module, parameters=False)
        adapter = open_adapter()
        untouched.restore()
        context = _context(adapter, inputs, config, seed, budget_s, wishes)
        results = []
        for number, each in enumerate(chosen, 1):
            if progress:
                progress(f"{number}/{len(chosen)} {each.name}")
            results.append(_run_one(each, context))
    if progress:
        progress("")
    return CheckReport(
        model=facts_of_target | _describe(adapter, context),
        checks=results,
        seconds=time.perf_counter() - started,
        seed=seed,
        modules=tuple(name for name, _ in adapter.module.named_modules() if name),
    )


@dataclass(frozen=True, kw_only=True)
class CheckJob:
    """A check of a TARGET, as the command line asks for it."""

    target: str
    tiers: tuple[int, ...] = (1,)
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    task: str | None = None
    budget_s: float = 60.0
    trust: bool | None = None
    seed: int = 0
    device: str | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """What replaces the target's own choices, by their names in `model.*`."""
    data: str | None = None
    """New data, for checks of tier 5."""
    reference: str | None = None
    """Data or a profile that the model knows."""
    baseline: str | None = None
    """TARGET that the model is compared with."""
    glue: str | None = None
    """Folder of GLUE's tasks, or hub."""
    glue_task: str = "sst2"
    isolated: bool = False
    """Whether it runs inside the isolated worker, which lets no program be started."""

    @classmethod
    def of(cls, settings: Resolved, *, trust: bool | None = None, device: str | None = None) -> CheckJob:
        """The job that `model.*`, `data.task` and `check.*` describe."""
        wishes = settings.check
        return cls(
            target=settings.model.target,
            tiers=wishes.tiers,
            only=wishes.only,
            skip=wishes.skip,
            task=None if settings.data.task == "auto" else settings.data.task,
            budget_s=wishes.budget_s,
            trust=trust,
            seed=wishes.seed,
            device=device,
            sizes=settings.model.overrides(),
            baseline=wishes.baseline,
            glue=wishes.glue,
            glue_task=wishes.glue_task,
            data=wishes.data,
            reference=wishes.reference,
        )


def run(
    config: CheckJob,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> CheckReport:
    """Run the job here if its code is trusted, else wholly inside the isolated worker; keep the report.

    `progress` hears which check runs; `tell` hears what is known of a stranger's code.
    """
    chosen = choose(config.tiers, config.only, config.skip)
    if dry_run:
        return _planned(chosen, config)
    if _is_trusted(config):
        report = _run_here(config, progress)
    else:
        report = run_stranger(_json_arguments(config), budget_s=config.budget_s, tell=tell)
    _keep(report, config)
    _certify(report, config)
    return report


def job(**arguments: Any) -> dict[str, Any]:
    """The whole job inside the isolated worker: plain values in, the report's dict out."""
    for name in ("tiers", "only", "skip"):
        arguments[name] = tuple(arguments.get(name) or ())
    return _run_here(CheckJob(**(arguments | {"trust": True, "isolated": True})), None).to_dict()


def _run_here(config: CheckJob, progress: Progress | None) -> CheckReport:
    from torchstone.adapt.load import load

    model = load(
        config.target, task=config.task, trust=config.trust, overrides=config.sizes, seed=config.seed
    )
    return check(
        model,
        tiers=config.tiers,
        only=config.only,
        skip=config.skip,
        seed=config.seed,
        device=config.device,
        budget_s=config.budget_s,
        progress=progress,
        wishes=_wishes(config),
    )


def _wishes(config: CheckJob) -> dict[str, Any]:
    """What checks of tiers 3 and 5 are told; the tokenizer is looked for only where texts are to be read."""
    told: dict[str, Any] = {
        "target": config.target,
        "baseline": config.baseline,
        "data": config.data,
        "reference": config.reference,
        "trust": config.trust,
        "isolated": config.isolated,
    }
    if config.glue is not None:
        from torchstone.adapt.tokenizer_of import find_tokenizer

        told |= {
            "glue": config.glue,
            "glue_task": config.glue_task,
            "tokenizer": find_tokenizer(config.target),
        }
    return told


def _keep(report: CheckReport, config: CheckJob) -> None:
    """A row in the store. A report that cannot be stored is still a report: say so and go on."""
    from torchstone.tracking.run_folder import new_run_id
    from torchstone.tracking.store import Store

    name = str(report.model.get("class") or "check")
    run_id = new_run_id(f"check-{name}")
    try:
        with Store.open() as store:
            store.start_run(run_id, name=name, kind="check", run_dir="", config=_json_arguments(config))
            store.add_checks(run_id, report.to_dict())
            store.finish_run(run_id, "completed", {"verdict": report.verdict})
    except (OSError, TorchstoneError) as error:
        log.warning("the report was not stored: %s", in_one_line(error))


def _certify(report: CheckReport, config: CheckJob) -> None:
    """The certificate of `parity` into the folder of the run whose model it is about."""
    from torchstone._files import write_json
    from torchstone.adapt.target import parse_target

    found = next((each for each in report.to_dict()["checks"] if each["id"] == "parity"), None)
    target = parse_target(config.target)
    if found is None or "certificate" not in found["details"] or target.kind != "run":
        return
    about = {name: report.model.get(name) for name in ("target", "class", "fingerprint", "parameters")}
    judged = {"model": about, "verdict": found["status"], "module": found["module"], "seed": report.seed}
    try:
        write_json(target.path / CERTIFICATE, found["details"]["certificate"] | judged)
    except OSError as error:
        log.warning("the certificate was not stored: %s", in_one_line(error))


def _json_arguments(config: CheckJob) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()
    }


def _is_trusted(config: CheckJob) -> bool:
    from torchstone.adapt.target import parse_target

    if config.trust is not None:
        return config.trust
    targets = [config.target, *([config.baseline] if config.baseline else [])]
    return not any(parse_target(each).untrusted_by_default for each in targets)


def _planned(chosen: list[Check], config: CheckJob) -> CheckReport:
    results = [
        CheckResult(id=each.name, tier=each.tier, status="skip", summary=each.proves, why="dry run")
        for each in chosen
    ]
    return CheckReport(model={"target": config.target}, checks=results, seconds=0.0, seed=config.seed)


def _open(
    model: Any, config: Any, task: Any, seed: int
) -> tuple[nn.Module, dict[str, Any], Callable[[], Any]]:
    """The module, where it came from, and how to get its adapter (which probes the module)."""
    from torchstone.adapt.adapter import adapt

    if isinstance(model, (str, Path)):
        from torchstone.adapt.load import load

        model = load(model, task=task, seed=seed)
    if isinstance(model, torch.nn.Module):
        where = {
            "target": f"{type(model).__module__}:{type(model).__qualname__}",
            "class": type(model).__name__,
        }
        return model, where | {"fingerprint": None}, lambda: adapt(model, config=config, task=task)
    where = {"target": model.target, "class": model.class_name, "fingerprint": model.fingerprint}
    if config is None and task is None:
        return model.module, where, lambda: model.adapter
    settled = task if task is not None else model.task_given
    return model.module, where, lambda: adapt(model.module, config=config or model.config, task=settled)


def _context(
    adapter: Any,
    inputs: Any,
    config: Any,
    seed: int,
    budget_s: float,
    wishes: Mapping[str, Any] | None = None,
) -> Context:
    parameters = list(adapter.module.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    examples = adapter.examples
    if inputs is not None:
        given = named_inputs(inputs, adapter.signature)
        examples = GivenExamples(given, examples.primary, adapter.facts.vocab_size)
    count = sum(each.numel() for each in parameters)
    plan = choose_plan(count, adapter.facts.max_seq_len, budget_s)
    plain = config if isinstance(config, dict) else dict(getattr(config, "__dict__", {}))
    return Context(
        adapter=adapter,
        plan=plan,
        seed=seed,
        device=device,
        examples=examples,
        config=plain,
        wishes=wishes or {},
    )


def _run_one(each: Check, context: Context) -> CheckResult:
    """One check. Whatever it raises becomes its own `error`; whatever it changed is put back."""
    started = time.perf_counter()
    context.current = each
    seed_everything(context.seed)
    try:
        result = each.run(context)
    except Exception as error:
        log.debug("check %s raised", each.name, exc_info=True)
        result = CheckResult(
            id=each.name, tier=each.tier, status="error", summary=f"could not finish: {in_one_line(error)}",
            why=in_one_line(error), hint=getattr(error, "next", None) or None,
        )  # fmt: skip
    finally:
        context.kept.restore()
        context.module.eval()
    return replace(result, seconds=round(time.perf_counter() - started, 4))


@contextmanager
def _undisturbed(module: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """Evaluation mode on `device`; afterwards model, random state and torch's switches are as before."""
    kept = Kept(module)
    default = torch.get_default_dtype()
    with (
        preserved_rng(),
        warnings.catch_warnings(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        try:
            kept.drop_gradients()
            module.eval()
            if device is not None:
                module.to(device)
            yield
        finally:
            torch.set_default_dtype(default)
            kept.restore()


def _describe(adapter: Any, context: Context) -> dict[str, Any]:
    facts = adapter.facts
    return {
        "parameters": sum(each.numel() for each in adapter.module.parameters()),
        "task": adapter.task.kind if adapter.task else None,
        "signature": str(adapter.signature),
        "vocab_size": facts.vocab_size,
        "vocab_size_source": facts.vocab_size_source,
        "plan": asdict(context.plan),
    }


def _names(names: Sequence[str] | str | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())
