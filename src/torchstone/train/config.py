"""Knobs of the training loop, and the list of all sections that a training job obeys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily
from torchstone.config.schema import Section, knob
from torchstone.data.config import DataConfig
from torchstone.nn.config import ModelConfig
from torchstone.optim.config import OptimConfig, PruneConfig
from torchstone.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from torchstone.train.training_config import TrainingConfig as TrainingConfig

__all__ = ["LEFT_OPEN", "SECTIONS", "LoopConfig", "TrainingConfig"]


class LoopConfig(Section):
    """`train.*`: batch, length, precision, devices, checkpoints."""

    batch_size: int = knob(
        4,
        help="Examples per micro-step, over all processes; 0: as many as the memory takes.",
        unit="examples",
        ge=0,
    )
    gradient_accumulation_steps: int = knob(
        1, help="Micro-steps per optimizer step; 0: what makes up the update.", unit="micro-steps", ge=0
    )
    tokens_per_update: int | None = knob(
        None,
        help="Tokens of an optimizer step, which batch and accumulation must come to exactly.",
        unit="tokens",
        ge=1,
    )
    examples_per_update: int | None = knob(
        None,
        help="The same in examples, for data that is not cut into blocks of tokens.",
        unit="examples",
        ge=1,
    )
    epochs: int = knob(
        10,
        help="Passes over the training data, unless max_steps ends the run first.",
        unit="epochs",
        ge=1,
        environment="EPOCHS",
    )
    max_steps: int | None = knob(
        None,
        help="Stop after this many optimizer steps.",
        unit="optimizer steps",
        ge=1,
        environment="MAX_ITERS",
    )
    max_time_s: float | None = knob(
        None,
        help="Stop with the state saved after this long.",
        unit="seconds",
        gt=0.0,
        environment="TIME",
        changes_result=False,
    )
    dry_run: bool = knob(
        False, help="Say what would be trained; spend nothing.", environment="DRY_RUN", changes_result=False
    )
    precision: str = knob(
        "fp32",
        help="Number format of the forward pass; fp16 scales its gradients, tf32 needs a GPU; "
        "auto: bf16 where a GPU computes with it, else fp32.",
        choices=("fp32", "tf32", "bf16", "fp16", "auto"),
    )
    speed: str = knob(
        "as-set",
        help="Probe which levers make steps quicker on this CPU, and use them; bf16 only if asked for.",
        choices=("as-set", "probe", "probe-bf16"),
    )
    compile: str = knob(
        "none",
        help="torch.compile mode of the model; falls back to none, with the reason, where it cannot; "
        "auto: default on a GPU, else none.",
        choices=("none", "default", "reduce-overhead", "max-autotune", "auto"),
    )
    compile_fullgraph: bool = knob(
        False, help="Refuse graph breaks instead of compiling around them.", depends_on="train.compile!=none"
    )
    compile_dynamic: bool | None = knob(
        None,
        help="Compile for all shapes at once (True), each shape (False), or as torch finds best (None).",
        depends_on="train.compile!=none",
    )
    gradient_checkpointing: bool = knob(
        False, help="Recompute the blocks in the backward pass: less memory, about a third more time."
    )
    ema_decay: float | None = knob(
        None,
        help="Average the weights with this decay per step; averages are validated and saved at the end.",
        gt=0.0,
        lt=1.0,
        source="Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4)",
    )
    on_nonfinite: str = knob(
        "stop",
        help="What a step with a NaN or Inf leads to; it is never applied.",
        choices=("stop", "skip", "rollback"),
    )
    max_nonfinite: int = knob(
        3,
        help="Bad steps in a row that skip and rollback put up with.",
        unit="optimizer steps",
        ge=1,
        depends_on="train.on_nonfinite!=stop",
    )
    loss_chunk: int | None = knob(
        None,
        help="Make a language model's loss in chunks of so many tokens, which saves the memory of logits; "
        "0: chunks of 64 MiB of logits, where a micro-batch has more than 256 MiB; None: all at once.",
        unit="tokens",
        ge=0,
    )
    lora_rank: int = knob(
        0,
        help="Train low-rank adapters of this rank instead of the weights (extra [peft]); 0: all.",
        ge=0,
        source="Hu et al. 2021, arXiv:2106.09685",
    )
    lora_alpha: float = knob(
        16.0, help="Adapters are scaled by lora_alpha / lora_rank.", gt=0.0, depends_on="train.lora_rank!=0"
    )
    lora_dropout: float = knob(
        0.0, help="Dropout before the adapters.", ge=0.0, lt=1.0, depends_on="train.lora_rank!=0"
    )
    lora_targets: tuple[str, ...] = knob(
        (),
        help="Layers that get adapters, by name or end of name; none named: all linear ones but the head.",
        depends_on="train.lora_rank!=0",
    )
    strategy: str = knob(
        "auto",
        help="How devices share the work: ddp copies the model, fsdp splits it; auto: ddp if several.",
        choices=("auto", "ddp", "fsdp"),
        changes_result=False,
    )
    devices: int | None = knob(
        None,
        help="Processes per machine, one per GPU or CPU core; None: one, or all GPUs with ddp and fsdp.",
        unit="processes",
        ge=1,
        changes_result=False,
    )
    num_nodes: int = knob(
        1, help="Machines; torchrun or SLURM starts the processes on them.", ge=1, changes_result=False
    )
    random_seed: int = knob(42, help="Seed of initialisation, order and dropout.", ge=0)
    deterministic: bool = knob(False, help="Refuse operations without a deterministic form.")
    eval_every: int | None = knob(
        None,
        help="Validate every so many steps; None: at each epoch's end and at the end.",
        unit="optimizer steps",
        ge=1,
    )
    checkpoint_every: int | None = knob(
        None,
        help="Save every so many steps; None: at each epoch's end and at the end.",
        unit="optimizer steps",
        ge=1,
    )
    checkpoint_every_epochs: int = knob(
        1, help="Epochs between saves where checkpoint_every is None.", unit="epochs", ge=1
    )
    keep_last: int = knob(
        2, help="Newest checkpoints kept beside the best.", unit="checkpoints", ge=1, changes_result=False
    )
    keep_best: int = knob(
        1,
        help="Checkpoints of lowest validation loss kept beside the newest.",
        unit="checkpoints",
        ge=1,
        changes_result=False,
    )
    async_save: bool | None = knob(
        None,
        help="Write checkpoints beside the training, from a copy of the state; None: where that pays.",
        changes_result=False,
    )
    early_stopping_patience: int | None = knob(
        None, help="Stop after this many validations without improvement.", unit="validations", ge=1
    )


SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "prune": PruneConfig,
    "train": LoopConfig,
    "tracking": TrackingConfig,
}

LEFT_OPEN: dict[str, object] = {
    "train.batch_size": 0,
    "train.gradient_accumulation_steps": 0,
    "train.precision": "auto",
    "train.compile": "auto",
}
"""Key -> the value that leaves it to the machine (`auto.py`)."""

# The flat face reads SECTIONS, so it is imported when asked for.
__getattr__, __dir__ = lazily(__name__, {"TrainingConfig": "torchstone.train.training_config"})
