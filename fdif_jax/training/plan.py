"""What decides the updates of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fdif_jax.errors import FdifError
from fdif_jax.keys import BEYOND_SAMPLES, RESERVED_SEEDS


class Pace(NamedTuple):
    """What of a plan is an argument of its compiled step: runs that differ in these alone share a program.

    Attributes:
        seed: of everything drawn, uint32.
        learning_rate: at its highest, float32.
        warmup: steps of linear warm-up, float32.
        steps: number of updates, float32.
    """

    seed: Any
    learning_rate: Any
    warmup: Any
    steps: Any

    def rate(self, done: Int[Array, ""] | int) -> Float[Array, ""]:
        """The learning rate after so many steps: linear warm-up from 0, then cosine decay to 0."""
        count = jnp.asarray(done, jnp.float32)
        decayed = jnp.clip((count - self.warmup) / (self.steps - self.warmup), 0, 1)
        warm = count / jnp.maximum(self.warmup, 1)
        return self.learning_rate * jnp.where(
            count < self.warmup, warm, 0.5 * (1 + jnp.cos(jnp.pi * decayed))
        )


@dataclass(frozen=True)
class TrainingPlan:
    """What decides the updates, beside the batches and the loss.

    Attributes:
        steps: number of updates; the learning rate reaches 0 there.
        seed: of everything drawn.
        batch_size: samples an update, those of all devices.
        accumulate: parts that a batch is divided into, one after another, to save memory.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW, on all weights.
        warmup: steps of linear warm-up from 0; cosine decay follows.
        clip: greatest global norm of the gradient; 0 for no clipping.
        ema: how much of their moving average the weights keep a step, e.g. 0.999; 0 for no average.
        max_loss: a loss above it has exploded, and stops the run.

    Raises:
        FdifError: a value is impossible.
    """

    steps: int
    seed: int = 0
    batch_size: int = 2
    accumulate: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    warmup: int = 500
    clip: float = 0.0
    ema: float = 0.0
    max_loss: float = 100.0

    def __post_init__(self):
        if not 0 <= self.seed < RESERVED_SEEDS:
            raise FdifError(
                f"seed must be from 0 to {RESERVED_SEEDS - 1}, not {self.seed}; others are for evaluation"
            )
        for name in ("steps", "batch_size", "accumulate", "learning_rate", "max_loss"):
            if not getattr(self, name) > 0:
                raise FdifError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "warmup", "clip"):
            if not getattr(self, name) >= 0:
                raise FdifError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise FdifError(f"ema must be at least 0 and below 1, e.g. 0.999, not {self.ema}")
        if self.warmup >= self.steps:
            raise FdifError(f"warmup ({self.warmup}) must be shorter than the {self.steps} steps of the run")
        if self.batch_size % self.accumulate:
            raise FdifError(
                f"a batch of {self.batch_size} cannot be accumulated in {self.accumulate} equal parts"
            )
        if self.steps * self.batch_size > BEYOND_SAMPLES:
            raise FdifError(
                f"{self.steps} steps of {self.batch_size} samples exceed the {BEYOND_SAMPLES} of a seed"
            )

    @property
    def pace(self) -> Pace:
        """See `Pace`."""
        floats = (np.float32(value) for value in (self.learning_rate, self.warmup, self.steps))
        return Pace(np.uint32(self.seed), *floats)

    def optimiser(self, rates: Mapping[str, float], pace: Pace | None = None) -> optax.GradientTransformation:
        """AdamW at a pace (Loshchilov & Hutter 2019, arXiv 1711.05101), of clipped gradients.

        Args:
            rates: fractions of the learning rate that weights have, by name; others have all of it.
            pace: the plan's own if not given.
        """
        clip = optax.clip_by_global_norm(self.clip) if self.clip else optax.identity()
        adamw = optax.chain(clip, optax.adamw((pace or self.pace).rate, weight_decay=self.weight_decay))
        if not rates:
            return adamw
        slower = optax.stateless(
            lambda changes, _: {name: rates.get(name, 1.0) * change for name, change in changes.items()}
        )
        return optax.chain(adamw, slower)
