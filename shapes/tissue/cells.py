"""What cells make: a cluster of them, and a tumour."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.sdf.arguments import count, number
from fdif_jax.sdf.seams import smooth_minimum
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, length, node
from fdif_jax.shapes.tissue.nearest import nearest
from fdif_jax.shapes.tissue.trees import Segments, unit
from fdif_jax.shapes.tissue.waves import STEEPEST, bumps, directions, turned


@node
class Cells(Shape):
    """Voronoi cells about ``centres`` ``(n, 3)``: membranes and nuclei; free sides are balls of ``radius``.

    A membrane is ``membrane`` thick on either side of what two cells share.
    """

    centres: Float[Array, "n 3"]
    radius: Scalar
    membrane: Scalar
    nucleus: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        own, other = nearest(
            p, self.centres, lambda p, at: length(*(c - a for c, a in zip(p, at, strict=True))), 2
        )
        cell = jnp.maximum(own - self.radius, (own - other) / 2)
        return jnp.minimum(jnp.abs(cell + self.membrane / 2) - self.membrane / 2, own - self.nucleus)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.radius + margin
        return Box(jnp.min(self.centres, axis=0) - reach, jnp.max(self.centres, axis=0) + reach)


def cell_cluster(
    key: jax.Array,
    size: Scalar,
    *,
    cells: int = 28,
    membrane: Scalar = 0.12,
    nucleus: Scalar = 0.35,
) -> Cells:
    """A cluster of cells that press against each other: Voronoi cells with membranes and nuclei.

    Args:
        key: decides which.
        size: half its greatest edge, voxels.
        cells: how many, 2 or more.
        membrane: its thickness over a cell's radius.
        nucleus: its radius over a cell's.

    Returns:
        A shape. A bound.
    """
    n = count("cell_cluster", "cells", cells, least=2)
    size = number("cell_cluster", "size", size, above=0)
    membrane, nucleus = (
        number("cell_cluster", name, v, above=0) for name, v in (("membrane", membrane), ("nucleus", nucleus))
    )
    apart = 1.5 * n ** (-1 / 3)  # of a ball of radius 1

    def pushed(_: int, at: Array) -> Array:
        way = at[:, None] - at[None, :]
        far = length(way[..., 0], way[..., 1], way[..., 2])
        push = jnp.where(far < apart, (apart - far) / jnp.maximum(far, 1e-3), 0.0)
        at = at + 0.25 * jnp.sum(push[..., None] * way, axis=1)
        return 0.97 * at

    start = 0.6 * jax.random.normal(key, (n, 3))
    at = lax.fori_loop(0, 60, pushed, start)
    at, radius = at - jnp.mean(at, axis=0), 0.72 * apart
    lower, upper = jnp.min(at, axis=0) - radius, jnp.max(at, axis=0) + radius
    factor = 2 * size / jnp.max(upper - lower)
    radius = radius * factor
    return Cells((at - (lower + upper) / 2) * factor, radius, membrane * radius, nucleus * radius)


@node
class Tumour(Shape):
    """A bumpy ball of ``radius`` with ``spicules``, hollow within (``hollow``) but for a core.

    ``cavity`` and ``core`` are balls, centre and radius; ``bumps`` are ``height`` high and ``period`` wide, voxels.
    """

    radius: Scalar
    spicules: Segments
    cavity: Float[Array, "4"]
    core: Float[Array, "4"]
    height: Scalar
    period: Scalar
    axes: Float[Array, "3 4"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        rough = self.height * bumps(turned(p, self.axes, 1 / self.period))
        slope = 1 + self.height * STEEPEST / self.period
        body = (length(*p) - self.radius + rough) / slope
        cavity = (_ball(p, self.cavity) - rough) / slope
        blend = 0.3 * self.radius
        solid = jnp.maximum(smooth_minimum(body, self.spicules(p), blend), -cavity)
        return smooth_minimum(solid, _ball(p, self.core), 0.5 * blend)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        slope = 1 + self.height * STEEPEST / self.period
        reach = self.radius + self.height + slope * (margin + 0.15 * self.radius)
        lower, upper = self.spicules.bounds(margin + 0.15 * self.radius)
        return Box(jnp.minimum(lower, -reach), jnp.maximum(upper, reach))


def _ball(p: Point, ball: Float[Array, "4"]) -> Distance:
    return length(*(c - at for c, at in zip(p, ball[:3], strict=True))) - ball[3]


def tumour(key: jax.Array, size: Scalar, *, spicules: int = 28, necrosis: Scalar = 0.7) -> Tumour:
    """A tumour as one solid: a rim with spicules, a necrotic hollow within, a core in it that grows from the rim.

    Args:
        key: decides which.
        size: half its greatest edge, voxels, about; spicules reach so far.
        spicules: how many.
        necrosis: radius of the hollow over the body's, 0 … 1.

    Returns:
        A shape. A bound.
    """
    way_key, reach_key, aside_key, frame_key = jax.random.split(key, 4)
    size = number("tumour", "size", size, above=0)
    n = count("tumour", "spicules", spicules, least=1)
    radius = 0.58 * size
    # Evenly over a sphere, along a spiral, and then astray.
    height = 1 - (2 * jnp.arange(n) + 1) / n
    angle = jnp.pi * (3 - jnp.sqrt(5.0)) * jnp.arange(n)
    ring = jnp.sqrt(1 - height**2)
    way = jnp.stack([ring * jnp.cos(angle), ring * jnp.sin(angle), height], axis=1)
    way = unit(way + 0.3 * jax.random.normal(way_key, (n, 3)))
    tips = way * jax.random.uniform(reach_key, (n, 1), minval=0.7, maxval=1.0) * size
    feet = 0.85 * radius * way
    thin = jnp.full(n, 0.012 * size)
    rods = Segments(feet, tips, jnp.full(n, 0.085 * size), thin)
    aside = unit(jax.random.normal(aside_key, (3,)))
    hollow = number("tumour", "necrosis", necrosis, above=0) * radius
    cavity = jnp.append(0.15 * radius * aside, hollow)
    core = jnp.append(-0.45 * radius * aside, 0.42 * radius)
    return Tumour(radius, rods, cavity, core, 0.1 * radius, 0.9 * radius, directions(frame_key))
