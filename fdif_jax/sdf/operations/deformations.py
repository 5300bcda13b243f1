"""Deformations, and transitions from one shape to another along a way; how evenly they go is an easing.

Source of the ideas: fogleman/sdf. Distances are stretched by as much as space is.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.algebra import Axis, Vector
from fdif_jax.sdf.arguments import choice, number, vector
from fdif_jax.sdf.lifts import stood, within_slab
from fdif_jax.sdf.shape import (
    Box,
    Distance,
    Point,
    Profile,
    Scalar,
    Shape,
    Union,
    as_profile,
    as_shape,
    length,
    method,
    node,
    profile_method,
    static,
)

# How far something has gone, 0 … 1, of a share 0 … 1 of its way.
EASINGS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda t: t,
    "in_quad": lambda t: t * t,
    "out_quad": lambda t: t * (2 - t),
    "in_out_quad": lambda t: jnp.where(t < 0.5, 2 * t * t, 1 - 2 * (1 - t) * (1 - t)),
    "in_cubic": lambda t: t * t * t,
    "out_cubic": lambda t: 1 - (1 - t) * (1 - t) * (1 - t),
    "in_out_cubic": lambda t: t * t * (3 - 2 * t),
    "in_out_sine": lambda t: (1 - jnp.cos(math.pi * t)) / 2,
    "step": lambda t: jnp.where(t < 0.5, 0.0, 1.0),
}


@node
class BentBetween(Shape):
    """`bend_between`: all beyond a point is shifted, and what lies before it by a share."""

    shape: Shape
    start: Float[Array, "3"]
    end: Float[Array, "3"]
    offset: Float[Array, "3"]
    easing: str = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        share = EASINGS[self.easing](_share(p, self.start, self.end))
        return self.shape(Point(*(c - o * share for c, o in zip(p, self.offset, strict=True))))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        box = self.shape.bounds(margin)
        return Box(box.lower + jnp.minimum(self.offset, 0.0), box.upper + jnp.maximum(self.offset, 0.0))


@node
class Wrapped(Shape):
    """`wrap_around` the z axis: x is an angle, y the distance from a circle."""

    shape: Shape
    start: Scalar
    end: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        # On the axis there is no angle; any will do, and has no slope.
        on_axis = (p.x == 0) & (p.y == 0)
        turn = jnp.arctan2(p.y, jnp.where(on_axis, 1.0, p.x)) / (2 * jnp.pi) + 0.5
        return self.shape(
            Point(self.start + (self.end - self.start) * turn, length(p.x, p.y) - self._radius, p.z)
        )

    @property
    def _radius(self) -> Scalar:
        return (self.end - self.start) / (2 * jnp.pi)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        box = self.shape.bounds(margin)
        across = jnp.full(2, jnp.maximum(self._radius + box.upper[1], 0.0))
        return Box(jnp.append(-across, box.lower[2]), jnp.append(across, box.upper[2]))


@node
class Attracted(Shape):
    """`attract`: a point is moved away from a centre, by a share that falls with its distance."""

    shape: Shape
    centre: Float[Array, "3"]
    radius: Scalar
    strength: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        offset = [c - at for c, at in zip(p, self.centre, strict=True)]
        stretch = 1 + self.strength * jnp.exp(-length(*offset) / self.radius)
        return self.shape(Point(*(at + c * stretch for c, at in zip(offset, self.centre, strict=True))))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        # What is attracted lies between the centre and where it was; what is repelled, at most so far beyond.
        box, farthest = self.shape.bounds(margin), 1 / (1 + jnp.minimum(self.strength, 0.0))
        below, above = jnp.minimum(box.lower - self.centre, 0.0), jnp.maximum(box.upper - self.centre, 0.0)
        return Box(self.centre + below * farthest, self.centre + above * farthest)


@node
class Transition(Shape):
    """`transition`: one shape before a point, another beyond a second one, and their mean between."""

    first: Shape
    second: Shape
    start: Float[Array, "3"]
    end: Float[Array, "3"]
    easing: str = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        share = EASINGS[self.easing](_share(p, self.start, self.end))
        return self.first(p) * (1 - share) + self.second(p) * share

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Union(self.first, self.second).bounds(margin)


@node
class Lofted(Shape):
    """`loft`: a prism whose section changes from one profile to another."""

    first: Profile
    second: Profile
    half_height: Scalar
    easing: str = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        share = EASINGS[self.easing](jnp.clip(p.z / (2 * self.half_height) + 0.5, 0.0, 1.0))
        d = self.first(p.x, p.y) * (1 - share) + self.second(p.x, p.y) * share
        return within_slab(d, jnp.abs(p.z) - self.half_height)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        across = jnp.maximum(self.first.radius(), self.second.radius()) + margin
        return Box.around(across, across, self.half_height + margin)


def _share(p: Point, start: Float[Array, "3"], end: Float[Array, "3"]) -> Distance:
    """How far along the way from one place to another a point is, 0 … 1."""
    way = end - start
    along = sum(w * (c - s) for w, c, s in zip(way, p, start, strict=True))
    return jnp.clip(along / jnp.maximum(jnp.dot(way, way), 1e-12), 0.0, 1.0)


@method
def bend_between(
    shape: Shape, start: Vector, end: Vector, offset: Vector, easing: str = "in_out_cubic"
) -> Shape:
    """Shift all of a shape beyond ``end`` by ``offset`` voxels, nothing before ``start``, and a share between them.

    An easing is one of `EASINGS`: "linear", "in_quad", "out_quad", "in_out_quad", "in_cubic", "out_cubic",
    "in_out_cubic", "in_out_sine", "step". Not a true distance: sheared between the two places.
    """
    of = "bend_between"
    places = vector(of, "start", start), vector(of, "end", end), vector(of, "offset", offset)
    return BentBetween(as_shape(of, "shape", shape), *places, choice(of, "easing", easing, EASINGS))


@method
def wrap_around(shape: Shape, start: Scalar, end: Scalar, axis: Axis = "z") -> Shape:
    """Wrap x from ``start`` to ``end`` (voxels) once around ``axis``, so that y points outwards.

    The circle that the x axis becomes is as long as the way: its radius is (end - start) / 2π. Not a true distance but
    on that circle.
    """
    start, end = number("wrap_around", "start", start), number("wrap_around", "end", end)
    number("wrap_around", "end - start", end - start, above=0)
    return stood(Wrapped(as_shape("wrap_around", "shape", shape), start, end), "z", axis)


@method
def attract(shape: Shape, centre: Vector, radius: Scalar, strength: Scalar) -> Shape:
    """Pull a shape towards a place, most what is nearest to it; push it away where ``strength`` (> -1) is negative.

    Space shrinks by 1 + ``strength`` at the centre, by 1 + ``strength`` / e ``radius`` voxels away. Not true.
    """
    centre, radius = vector("attract", "centre", centre), number("attract", "radius", radius, above=0)
    strength = number("attract", "strength", strength, above=-1)
    return Attracted(as_shape("attract", "shape", shape), centre, radius, strength)


@method
def transition(
    first: Shape, second: Shape, start: Vector, end: Vector, easing: str = "in_out_cubic"
) -> Shape:
    """One shape before ``start`` (x, y, z), another beyond ``end``, and the mean of both between; easings as of
    `bend_between`. Not a true distance: it changes along the way, too.
    """
    of = "transition"
    parts = as_shape(of, "first", first), as_shape(of, "second", second)
    places = vector(of, "start", start), vector(of, "end", end)
    return Transition(*parts, *places, choice(of, "easing", easing, EASINGS))


@profile_method
def loft(
    first: Profile, second: Profile, half_height: Scalar, easing: str = "linear", axis: Axis = "z"
) -> Shape:
    """A prism for |z| ≤ ``half_height`` whose section goes from one profile to another; easings as of `bend_between`.

    Not a true distance: the section changes with the height, too.
    """
    parts = as_profile("loft", "first", first), as_profile("loft", "second", second)
    half_height = number("loft", "half_height", half_height, above=0)
    return stood(Lofted(*parts, half_height, choice("loft", "easing", easing, EASINGS)), "z", axis)
