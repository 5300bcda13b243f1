"""What changes a shape's distance, its bounds, or its dimension, and not the shape; and the voxels in it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fdif_jax.sdf import arguments
from fdif_jax.sdf.algebra import Axis
from fdif_jax.sdf.arguments import number
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.lifts import stood
from fdif_jax.sdf.shape import (
    Box,
    Coordinate,
    Distance,
    Point,
    Profile,
    Scalar,
    Shape,
    as_shape,
    box_distance,
    length,
    method,
    node,
)

_LEAST_SLOPE = 0.1


@node
class Normalised(Shape):
    """`normalise`: a distance over its slope."""

    shape: Shape
    steepest: Scalar | None = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        at = jnp.broadcast_arrays(*(jnp.asarray(c, jnp.float32) for c in p))

        def along(axis: int) -> tuple[Distance, Distance]:
            tangents = tuple(jnp.full_like(c, float(i == axis)) for i, c in enumerate(at))
            return jax.jvp(lambda *c: self.shape(Point(*c)), tuple(at), tangents)

        (d, x), (_, y), (_, z) = (along(axis) for axis in range(3))
        return d / jnp.maximum(length(x, y, z), _LEAST_SLOPE)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        if self.steepest is None:
            return Box.everywhere()
        return self.shape.bounds(margin * jnp.maximum(self.steepest, _LEAST_SLOPE))


@node
class Bounded(Shape):
    """`bounded`: what a shape and a box have in common, with the box's bounds."""

    shape: Shape
    lower: Float[Array, "3"]
    upper: Float[Array, "3"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        box = zip(p, self.lower, self.upper, strict=True)
        beyond = box_distance([jnp.abs(c - (a + b) / 2) - (b - a) / 2 for c, a, b in box])
        return jnp.maximum(self.shape(p), beyond)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        box = self.shape.bounds(margin)
        return Box(jnp.maximum(box.lower, self.lower - margin), jnp.minimum(box.upper, self.upper + margin))


@node
class Sliced(Profile):
    """`slice`: a shape where z is ``height``."""

    shape: Shape
    height: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        return self.shape(Point(u, v, self.height))

    def radius(self) -> Scalar:  # noqa: D102
        box = self.shape.bounds()
        return jnp.linalg.norm(jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper))[:2])


@method
def normalise(shape: Shape, steepest: Scalar | None = None) -> Shape:
    """Divide a distance by its slope, which makes it true near its surface, to first order; the shape stays.

    Args:
        shape: a shape whose distance grows faster or slower than it should: stretched, twisted, a lattice.
        steepest: its greatest slope. Known, the result keeps the shape's bounds; None: it has none.

    Returns:
        A shape; slopes below 0.1 count as 0.1. It costs about three times as much as the shape.
    """
    shape = as_shape("normalise", "shape", shape)
    return Normalised(shape, None if steepest is None else number("normalise", "steepest", steepest, above=0))


@method
def bounded(shape: Shape, box: Any) -> Shape:
    """Cut a shape to a box, a `Box` or (lower, upper), which are its bounds, too. True where both distances are.

    For shapes whose bounds are not known: rendered, they cost only what is in the box.
    """
    return Bounded(as_shape("bounded", "shape", shape), *arguments.box("bounded", "box", box))


@method
def slice(shape: Shape, height: Scalar = 0.0, axis: Axis = "z") -> Profile:
    """The profile of a shape where ``axis`` is ``height`` voxels from the origin. A bound."""
    upright = stood(as_shape("slice", "shape", shape), axis, "z")
    return Sliced(upright, number("slice", "height", height))


@method
def voxels(shape: Shape, grid: Grid) -> Bool[Array, "D H W"]:
    """Which voxels of a grid, or of three edges (D, H, W), have their centre in a shape: where its distance is ≤ 0.

    It is the mask that a renderer labels. The distances themselves are ``shape(grid)``.
    """
    return _within(as_shape("voxels", "shape", shape), arguments.grid("voxels", "grid", grid))


@functools.partial(jax.jit, static_argnums=1)
def _within(shape: Shape, grid: Grid) -> Bool[Array, "D H W"]:
    return jnp.asarray(shape(grid)) <= 0
