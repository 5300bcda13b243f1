"""The options of the updates and of where they are computed, shared by the commands that train."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from fdif_jax.scripts.options.long_work import LongOptions
from fdif_jax.scripts.options.network import NetworkOptions
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.training.devices import Devices, divide_cpu
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.processes import join_processes


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(NetworkOptions, LongOptions):
    """The network, and how it is trained."""

    batch_size: int = 2
    """Volumes an update, those of all devices and parts."""
    accumulate: int = 1
    """Parts that a batch is divided into, one after another, to save memory."""
    loss: Literal["dice_ce", "ce"] = "dice_ce"
    """Soft Dice plus cross-entropy, or cross-entropy alone; summed over label maps, and the mean over regions."""
    lr: float = 1e-4
    """Highest learning rate of AdamW."""
    weight_decay: float = 1e-5
    """Weight decay of AdamW."""
    warmup: int | None = None
    """Steps of linear warm-up; 500, or a tenth of a short run, if not given."""
    clip: float = 0.0
    """Greatest norm of the gradient; 0 for no clipping."""
    ema: float = 0.0
    """Validate and keep the moving average of the weights, with this decay a step, e.g. 0.999; 0 for none."""
    max_loss: float = 100.0
    """A loss above it has exploded, and stops the run."""
    augment: bool = True
    """Give the images random gamma, contrast, brightness and noise."""
    val_every: int = 500
    """Steps between validations; 0 for none."""
    checkpoint_every: int = 500
    """Steps between checkpoints, of which the newest two and the best are kept; 0 for only the best and the last."""
    keep_every: int = 0
    """Steps between checkpoints that are kept for good; 0 for none."""
    devices: int = 0
    """Devices of each process; 0 for all. A CPU is divided into as many as asked for."""
    shard_weights: Flag = False
    """Divide the weights of a large network over the devices, instead of a copy on each."""
    distributed: str | None = None
    """Train in several processes: auto where the cluster says who is who (SLURM and others), or HOST:PORT,i/n."""


def devices_of(options: TrainingOptions) -> Devices:
    """Where to train; joins the other processes first, before anything else is done with JAX.

    FdifError if the devices or processes are not there, or the batch cannot be divided over them.
    """
    divide_cpu(options.devices)
    if options.distributed is not None:
        join_processes(options.distributed)
    devices = Devices(options.devices, options.shard_weights)
    devices.check_batch(options.batch_size, options.accumulate)
    return devices


def plan_of(options: TrainingOptions, steps: int, seed: int) -> TrainingPlan:
    """What decides the updates; FdifError for an impossible number."""
    check_least(options, "{} or more", val_every=0, checkpoint_every=0, keep_every=0)
    return TrainingPlan(
        steps=steps,
        seed=seed,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        warmup=min(500, steps // 10) if options.warmup is None else options.warmup,
        clip=options.clip,
        ema=options.ema,
        max_loss=options.max_loss,
    )


def settings_of(options: TrainingOptions, plan: TrainingPlan, **further: Any) -> dict[str, Any]:
    """What decides a training beside its network and its data, by name, for `RunDocument`."""
    return dataclasses.asdict(plan) | {"augment": options.augment, "loss": options.loss} | further
