"""Knobs of the run folder and the store."""

from __future__ import annotations

from torchstone.config.schema import Section, knob


class TrackingConfig(Section):
    """`tracking.*`: name, rows in the store, dashboard."""

    run_name: str | None = knob(
        None, help="Name of the run; None takes it from the model.", changes_result=False
    )
    log_every: int = knob(
        1, help="Store metrics every so many optimizer steps.", unit="optimizer steps", ge=1
    )
    layers_every: int | None = knob(
        None,
        help="Store gradient and weight norms of each layer every so many steps; None: never.",
        unit="optimizer steps",
        ge=1,
    )
    attention_samples: int = knob(
        0,
        help="Store entropy and reciprocity of each attention head at each validation, over so many of its "
        "examples; 0: none.",
        unit="examples",
        ge=0,
        changes_result=False,
    )
    dashboard: bool = knob(True, help="Draw the dashboard when a run ends.", changes_result=False)
    sinks: tuple[str, ...] = knob(
        (),
        help="Services that get a copy of the rows: wandb, trackio, tensorboard, mlflow.",
        changes_result=False,
    )
    tags: tuple[str, ...] = knob(
        (),
        help="Words by which the run is found again, such as the arm of a comparison.",
        changes_result=False,
    )
    notes: str = knob("", help="Free text kept with the run.", cosmetic=True)
