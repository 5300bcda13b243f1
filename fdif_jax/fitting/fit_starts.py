"""What a fit starts from: random members of a family, measured, and the quarter turns that lay them on a mask."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fdif_jax.errors import FdifError
from fdif_jax.fitting.free_parameters import FreeParameters
from fdif_jax.fitting.mask_targets import principal_axes
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point
from fdif_jax.vocabulary.authoring import place_of
from fdif_jax.vocabulary.vocabulary import Family

MEMBERS = 96
MESH = 20  # points an axis on which a member is measured


@dataclasses.dataclass(frozen=True, eq=False)
class Forms:
    """Random members, measured: numbers ``(n, W)``, volume, centroid ``(n, 3)`` and principal axes ``(n, 3, 3)``."""

    rows: np.ndarray
    volume: np.ndarray
    centroid: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, family: Family, free: FreeParameters, grid: Grid) -> "Forms":
        """Measure members; FdifError if a distance is NaN or none has an inside."""
        rows = free.members[:MEMBERS].astype(np.float32)

        def measured(row: Array) -> tuple[Array, Array, Array, Array]:
            shape = free.structure.unpack(row)
            box = shape.bounds()
            reach = jnp.asarray(grid.edges, jnp.float32)
            lower, upper = jnp.maximum(box.lower, -reach), jnp.minimum(box.upper, reach)
            bad = jnp.asarray(False)
            for _ in range(2):  # the second mesh is as large as what the first found
                step = (upper - lower) / (MESH - 1)
                points = jnp.stack(jnp.meshgrid(*jnp.linspace(lower, upper, MESH).T, indexing="ij"), axis=-1)
                d = jnp.broadcast_to(shape(Point(*jnp.moveaxis(points, -1, 0))), points.shape[:3])
                held = (d < 0)[..., None]
                bad |= jnp.isnan(d).any()
                # Where nothing is inside, the second mesh is the first.
                first = jnp.min(jnp.where(held, points, jnp.inf), axis=(0, 1, 2)) - step
                last = jnp.max(jnp.where(held, points, -jnp.inf), axis=(0, 1, 2)) + step
                lower, upper = jnp.where(held.any(), first, lower), jnp.where(held.any(), last, upper)
            count = held.sum()
            centroid = jnp.sum(points * held, axis=(0, 1, 2)) / count
            offset = (points - centroid) * held
            covariance = jnp.einsum("xyzi,xyzj->ij", offset, offset) / count
            return count * jnp.prod(step), centroid, covariance, bad

        volume, centroid, covariance, bad = map(
            np.asarray, jax.jit(lambda rows: lax.map(measured, rows))(rows)
        )
        if bad.any():
            raise FdifError(
                f"{place_of(family)}: the distance of {family.name!r} is NaN somewhere in {np.count_nonzero(bad)} of "
                f"{len(bad)} random members"
            )
        there = np.isfinite(volume) & (volume > 0) & np.isfinite(covariance).all(axis=(1, 2))
        if not there.any():
            raise FdifError(f"{place_of(family)}: no random member of {family.name!r} has an inside")
        axes = np.stack([principal_axes(c) for c in covariance[there].astype(np.float64)])
        return cls(rows[there], volume[there], centroid[there], axes)


def _quarter_turns() -> np.ndarray:
    """The 24 rotations that map the axes onto each other."""
    found = []
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)):
        for signs in np.ndindex(2, 2, 2):
            matrix = np.eye(3)[list(order)] * (1 - 2 * np.array(signs))
            if np.linalg.det(matrix) > 0:
                found.append(matrix)
    return np.stack(found)


QUARTER_TURNS = _quarter_turns()
