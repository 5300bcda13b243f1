"""Which numbers of a family's members are free, what ties the others to them, and within which bounds.

A shape's leaves are all its numbers; most are not parameters. What a family means by a parameter shows in its
members: in many random ones

- a number that never changes is a constant;
- a number that is always whole (the tips of a star) is a choice: it stays as it was drawn;
- a number that is always the same affine function of others (two mirrored parts, an end of a taper at twice the half
  height) stays that function of them; a pivoted QR decomposition of the centred numbers finds such ties;
- the rest is free, between bounds half the members' range beyond it on either side; what is of one sign in all
  members keeps it, and at least a quarter of its least size.

The optimiser sees one unbounded number u a free one: value = lower + (upper - lower) / (1 + exp(-u)).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy.linalg import qr

from fdif_jax.errors import FdifError
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Shape
from fdif_jax.sdf.structure import Structure
from fdif_jax.vocabulary.authoring import place_of
from fdif_jax.vocabulary.user_files import leaf_names
from fdif_jax.vocabulary.vocabulary import Family

MEMBERS = 256
_CONSTANT = 1e-5  # spread of a number over its size, below which it does not change
_TIED = 1e-3  # what is left of a number's spread when others explain it


@dataclasses.dataclass(frozen=True, eq=False)
class FreeParameters:
    """The free numbers of a family's members; W numbers a member, F of them free."""

    structure: Structure  # the structure of all members
    # of all W numbers, ``"first.radius"`` or, of an array's entry, ``"first.inverse.0.3"``
    names: tuple[str, ...]
    free: np.ndarray  # positions of the free ones, ``(F,)``
    lower: np.ndarray  # their lower bounds, ``(F,)``
    upper: np.ndarray  # their upper bounds, ``(F,)``
    ties: np.ndarray  # ``(W, F)``: what a free number adds to each
    offset: np.ndarray  # ``(W,)``: constants
    whole: np.ndarray  # ``(W,)`` bool: numbers that are as they were drawn
    members: np.ndarray  # the numbers of random members, ``(n, W)``

    @property
    def free_names(self) -> tuple[str, ...]:
        """Names of the free numbers."""
        return tuple(self.names[i] for i in self.free)

    def row(self, u: Float[Array, " F"], drawn: Float[Array, " W"]) -> Float[Array, " W"]:
        """All numbers of the member with these unbounded parameters; ``drawn`` has those that were drawn whole."""
        value = self.lower + (self.upper - self.lower) * jax.nn.sigmoid(u)
        return jnp.where(self.whole, drawn, self.offset + jnp.asarray(self.ties, jnp.float32) @ value)

    def shape(self, u: Float[Array, " F"], drawn: Float[Array, " W"]) -> Shape:
        """The member itself."""
        return self.structure.unpack(self.row(u, drawn))

    def unbounded(self, rows: np.ndarray) -> np.ndarray:
        """The unbounded parameters ``(..., F)`` of members ``(..., W)``."""
        part = (rows[..., self.free] - self.lower) / (self.upper - self.lower)
        part = np.clip(part, 1e-3, 1 - 1e-3)
        return np.log(part / (1 - part))

    @classmethod
    def of(cls, family: Family, grid: Grid, seed: int = 0) -> "FreeParameters":
        """Learn them from the random members of a seed, sized for a grid.

        FdifError if a member has a number that is not finite, or nothing can change.
        """
        abstract = jax.eval_shape(lambda key: family.sample(key, grid), jax.random.key(0))
        structure = Structure.of(abstract)
        keys = jax.random.split(jax.random.key(seed), max(MEMBERS, 4 * structure.width))
        draw = jax.jit(
            lambda keys: lax.map(lambda k: structure.pack(family.sample(k, grid), structure.width), keys)
        )
        rows = np.asarray(draw(keys), np.float64)
        names = _entry_names(abstract)
        if not np.isfinite(rows).all():
            bad = np.argwhere(~np.isfinite(rows))
            raise FdifError(
                f"{place_of(family)}: {len(set(bad[:, 0]))} of {len(rows)} members have a {names[bad[0, 1]]} that is "
                "NaN or infinite"
            )
        changes = np.ptp(rows, axis=0) > _CONSTANT * np.abs(rows).max(axis=0)
        whole = changes & (rows == np.round(rows)).all(axis=0)
        free, ties, offset = _ties(rows, np.flatnonzero(changes & ~whole))
        if not free.size:
            raise FdifError(
                f"{place_of(family)}: all members of {family.name!r} are the same; nothing to fit"
            )
        lower, upper = _bounds(rows[:, free])
        return cls(structure, tuple(names), free, lower, upper, ties, offset, whole, rows)


def _entry_names(shape: Any) -> list[str]:
    """The name of every number of a shape, in the order of its packed row."""
    return [
        ".".join([name, *map(str, index)])
        for name, leaf in zip(leaf_names(shape), jax.tree.leaves(shape), strict=True)
        for index in np.ndindex(*leaf.shape)
    ]


def _ties(rows: np.ndarray, changing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Free numbers among the ``changing`` ones, and all numbers as affine functions of them."""
    mean = rows.mean(axis=0)
    spread = rows[:, changing].std(axis=0)
    scaled = (rows[:, changing] - mean[changing]) / spread
    _, triangle, order = qr(scaled, mode="economic", pivoting=True)
    rank = int(np.sum(np.abs(np.diag(triangle)) > _TIED * np.sqrt(len(rows))))
    chosen = np.sort(order[:rank])
    free = changing[chosen]
    ties, offset = np.zeros((rows.shape[1], rank)), mean.copy()
    others = np.setdiff1d(changing, free)
    centred = rows - mean
    ties[others] = np.linalg.lstsq(centred[:, free], centred[:, others], rcond=None)[0].T
    offset[others] -= ties[others] @ mean[free]
    ties[free], offset[free] = np.eye(rank), 0
    return free, ties, offset


def _bounds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = values.min(axis=0), values.max(axis=0)
    beyond = (high - low) / 2
    lower = np.where(low > 0, np.maximum(low - beyond, low / 4), low - beyond)
    upper = np.where(high < 0, np.minimum(high + beyond, high / 4), high + beyond)
    return lower, upper
