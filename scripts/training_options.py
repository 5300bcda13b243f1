"""The options of the updates, shared by the commands that train."""

from dataclasses import dataclass
from typing import Literal

from fdif_jax.errors import FdifError
from fdif_jax.scripts.network_options import NetworkOptions
from fdif_jax.training import Plan


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(NetworkOptions):
    """The network, and how it is trained."""

    batch_size: int = 2
    """Volumes an update."""
    loss: Literal["dice_ce", "ce"] = "dice_ce"
    """Soft Dice plus cross-entropy, or cross-entropy alone."""
    lr: float = 1e-4
    """Highest learning rate of AdamW."""
    weight_decay: float = 1e-5
    """Weight decay of AdamW."""
    warmup: int | None = None
    """Steps of linear warm-up; 500, or a tenth of a short run, if not given."""
    clip: float = 0.0
    """Greatest norm of the gradient; 0 for no clipping."""
    augment: bool = True
    """Give the images random gamma, contrast, brightness and noise."""
    val_every: int = 500
    """Steps between validations; 0 for none."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0 for only the best and the last."""


def plan_of(options: TrainingOptions, steps: int, seed: int) -> Plan:
    """What decides the updates.

    Raises:
        FdifError: a number is impossible.
    """
    for name in ("val_every", "checkpoint_every"):
        if getattr(options, name) < 0:
            raise FdifError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(options, name)}")
    return Plan(
        steps=steps,
        seed=seed,
        batch_size=options.batch_size,
        loss=options.loss,
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        warmup=min(500, steps // 10) if options.warmup is None else options.warmup,
        clip=options.clip,
    )
