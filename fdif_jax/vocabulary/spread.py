"""Random parameters of a learned family: bounded, with a mean and a covariance."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Float

FARTHEST = 2.5  # standard deviations that a drawn member goes along a direction at most

# Of each parameter: lower and upper bound, mean of the unbounded parameter, and what every direction adds to it.
Rows = Mapping[str, tuple[float, float, float, tuple[float, ...]]]


class Spread:
    """Bounded parameters with a mean and a covariance: value = lower + (upper - lower) / (1 + exp(-u)).

    u is normal: its mean plus the sum of the directions, each times a standard normal number cut at 2.5; the
    directions are the covariance's principal axes times their standard deviations.
    """

    def __init__(self, rows: Rows) -> None:
        """Take the table of a written family: name → (lower, upper, mean, directions)."""
        self.names = tuple(rows)
        numbers = [np.asarray(column, np.float32) for column in zip(*rows.values(), strict=True)]
        self.lower, self.upper, self.mean, self.directions = numbers

    def draw(self, key: jax.Array) -> dict[str, Float[Array, ""]]:
        """A value of each parameter by name."""
        z = jax.random.truncated_normal(key, -FARTHEST, FARTHEST, (self.directions.shape[1],))
        u = self.mean + self.directions @ z
        values = self.lower + (self.upper - self.lower) * jax.nn.sigmoid(u)
        return dict(zip(self.names, values, strict=True))
