"""The algebra of shapes: small functions that make shapes from shapes.

Every operation keeps the sign of the distance exact. Each says below whether it also keeps a *true distance*
(|gradient| = 1) or only a *bound* (never greater than the true distance to the surface, unless it says otherwise).
Formulas for the exact and smooth forms follow Inigo Quilez's articles on distance functions.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.sdf.affine import between, invert, move, rotation
from fdif_jax.sdf.arguments import direction, is_triple, number, vector
from fdif_jax.sdf.captured import captured
from fdif_jax.sdf.shape import Box, Coordinate, Distance, Point, Scalar, Shape, as_shape, method, node

Vector = tuple[Scalar, Scalar, Scalar] | Float[Array, "3"]
Axis = str | Vector


@node
class Displaced(Shape):
    """`displace`: a shape with a field added to its distance, which swells it by ``reach`` voxels at most."""

    shape: Shape
    field: Callable[[Point], Distance]
    reach: Scalar | None = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.shape(p) + self.field(p)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        field = getattr(self.field, "func", self.field)  # of a field that is no pytree
        reach = getattr(field, "reach", None) if self.reach is None else self.reach
        return Box.everywhere() if reach is None else self.shape.bounds(margin + reach)


@node
class Mapped:
    """`map`: a shape's distance turned into intensity; call it as the shape."""

    shape: Shape
    mapper: Callable[[Distance], Distance]

    def __call__(self, *p: Any) -> Distance:  # noqa: D102
        return self.mapper(self.shape(*p))


@node
class Affine(Shape):
    """`transform`: a shape evaluated at the inversely moved point; ``inverse`` is float32 ``(3, 4)``."""

    shape: Shape
    inverse: Float[Array, "3 4"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.shape(move(self.inverse, p))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return self.shape.bounds(margin).mapped(invert(self.inverse))


@node
class Scaled(Shape):
    """`scale`: a shape grown by one factor along all axes."""

    shape: Shape
    factor: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.shape(Point(*(c / self.factor for c in p))) * self.factor

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        box = self.shape.bounds(margin / self.factor)
        return Box(box.lower * self.factor, box.upper * self.factor)


@node
class Stretched(Shape):
    """`scale` by three factors: the distance is scaled by the least of them, which keeps it a bound."""

    shape: Shape
    factors: Float[Array, "3"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        least = jnp.min(self.factors)
        return self.shape(Point(*(c / f for c, f in zip(p, self.factors, strict=True)))) * least

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        box = self.shape.bounds(margin / jnp.min(self.factors))
        return Box(box.lower * self.factors, box.upper * self.factors)


@node
class Onion(Shape):
    """`onion`: the shell around a shape's surface."""

    shape: Shape
    thickness: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return jnp.abs(self.shape(p)) - self.thickness

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return self.shape.bounds(margin + self.thickness)


@node
class Rounded(Shape):
    """`round`: a shape grown outwards by a radius."""

    shape: Shape
    radius: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.shape(p) - self.radius

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return self.shape.bounds(jnp.maximum(margin + self.radius, 0.0))  # the radius may be negative


@node
class Elongated(Shape):
    """`elongate`: a shape cut at its centre planes and pulled apart."""

    shape: Shape
    half: Float[Array, "3"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.shape(Point(*(c - jnp.clip(c, -h, h) for c, h in zip(p, self.half, strict=True))))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        box = self.shape.bounds(margin)
        return Box(box.lower - self.half, box.upper + self.half)


@node
class Repeated(Shape):
    """`repeat`: copies of a shape on a lattice; without end where ``counts`` is None."""

    shape: Shape
    spacing: Float[Array, "3"]
    counts: Float[Array, "3"] | None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        def fold(c: Coordinate, axis: int) -> Distance:
            cell = jnp.round(c / self.spacing[axis])
            if self.counts is not None:
                cell = jnp.clip(cell, -self.counts[axis], self.counts[axis])
            return c - self.spacing[axis] * cell

        return self.shape(Point(*(fold(c, axis) for axis, c in enumerate(p))))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        if self.counts is None:
            return Box.everywhere()
        box, reach = self.shape.bounds(margin), self.spacing * self.counts
        return Box(box.lower - reach, box.upper + reach)


@node
class Twisted(Shape):
    """`twist`: a shape wound around the z axis."""

    shape: Shape
    rate: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        cos, sin = jnp.cos(self.rate * p.z), jnp.sin(self.rate * p.z)
        return self.shape(Point(cos * p.x + sin * p.y, cos * p.y - sin * p.x, p.z))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return around_z(self.shape.bounds(margin))


@node
class Bent(Shape):
    """`bend`: a shape whose x axis is curved in the x-y plane."""

    shape: Shape
    rate: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        cos, sin = jnp.cos(self.rate * p.x), jnp.sin(self.rate * p.x)
        return self.shape(Point(cos * p.x - sin * p.y, sin * p.x + cos * p.y, p.z))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return around_z(self.shape.bounds(margin))


def around_z(box: Box) -> Box:
    """What a box can cover when each of its points is turned about the z axis by an angle of its own."""
    across = jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper))[:2]
    reach = jnp.full(2, jnp.sqrt(jnp.sum(jnp.square(across))))
    return Box(jnp.append(-reach, box.lower[2]), jnp.append(reach, box.upper[2]))


@method
def displace(shape: Shape, field: Callable[[Point], Distance], reach: Scalar | None = None) -> Shape:
    """Add ``field(point)`` (voxels) to the distance. Neither true nor a bound: as rough as the field is.

    Args:
        shape: a shape.
        field: any function of points; a pytree that can be called keeps its numbers as parameters.
        reach: how far it swells the shape, voxels: minus its least value. Known, the result has bounds. None: the
            field's own ``reach`` if it has one, as noise and the published displacements have; else not known.
    """
    reach = None if reach is None else number("displace", "reach", reach, least=0)
    return Displaced(as_shape("displace", "shape", shape), captured("displace", "field", field), reach)


@method
def map(shape: Shape, mapper: Callable[[Distance], Distance]) -> Mapped:
    """The intensity field ``mapper(shape(point))``."""
    return Mapped(as_shape("map", "shape", shape), captured("map", "mapper", mapper))


@method
def transform(shape: Shape, matrix: Float[Array, "4 4"] | Float[Array, "3 4"]) -> Shape:
    """Move a shape by an affine ``matrix`` acting on column vectors (x, y, z, 1).

    True for rotations, reflections and translations; otherwise the distance is measured before the move.
    """
    shape, matrix = as_shape("transform", "shape", shape), jnp.asarray(matrix, jnp.float32)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise FdifError(f"transform: matrix has the shape {matrix.shape}; it should be (4, 4) or (3, 4)")
    return Affine(shape, invert(matrix[:3]))


@method
def translate(shape: Shape, offset: Vector) -> Shape:
    """Move a shape by ``offset`` voxels (x, y, z). Keeps a true distance."""
    shape, offset = as_shape("translate", "shape", shape), vector("translate", "offset", offset)
    return Affine(shape, jnp.concatenate([jnp.eye(3), -offset[:, None]], axis=1))


@method
def rotate(shape: Shape, angle: Scalar, axis: Axis = (0.0, 0.0, 1.0)) -> Shape:
    """Turn a shape by ``angle`` radians about ``axis`` through the origin. Keeps a true distance.

    An axis is three numbers, or ``"x"``, ``"y"``, ``"z"``, here as in all operations.
    """
    shape, angle = as_shape("rotate", "shape", shape), number("rotate", "angle", angle)
    return _turned(shape, rotation(direction("rotate", "axis", axis), angle))


@method
def rotate_to(shape: Shape, start: Axis, end: Axis) -> Shape:
    """Turn a shape by the shortest way that brings the direction ``start`` to ``end``. Keeps a true distance."""
    shape = as_shape("rotate_to", "shape", shape)
    return _turned(shape, between(direction("rotate_to", "start", start), direction("rotate_to", "end", end)))


@method
def orient(shape: Shape, axis: Axis) -> Shape:
    """Turn a shape so that its z axis points along ``axis``. Keeps a true distance."""
    return rotate_to(shape, "z", axis)


def _turned(shape: Shape, matrix: Float[Array, "3 3"]) -> Shape:
    return Affine(shape, jnp.concatenate([matrix.T, jnp.zeros((3, 1))], axis=1))


@method
def shear(shape: Shape, xy: Scalar = 0.0, xz: Scalar = 0.0, yz: Scalar = 0.0) -> Shape:
    """Shear by the symmetric matrix with unit diagonal and these entries. Not a true distance any more."""
    shape = as_shape("shear", "shape", shape)
    xy, xz, yz = (number("shear", n, v) for n, v in (("xy", xy), ("xz", xz), ("yz", yz)))
    linear = jnp.asarray([[1.0, xy, xz], [xy, 1.0, yz], [xz, yz, 1.0]], jnp.float32)
    return transform(shape, jnp.concatenate([linear, jnp.zeros((3, 1))], axis=1))


@method
def scale(shape: Shape, factor: Scalar | Vector) -> Shape:
    """Grow a shape by ``factor`` (> 0) about the origin. Keeps a true distance.

    Three factors (x, y, z) stretch it: the distance becomes a bound.
    """
    shape = as_shape("scale", "shape", shape)
    if is_triple(factor):
        return Stretched(shape, vector("scale", "factor", factor, above=0))
    return Scaled(shape, number("scale", "factor", factor, above=0))


@method
def onion(shape: Shape, thickness: Scalar) -> Shape:
    """The shell within ``thickness`` (> 0) voxels of the surface. Keeps a true distance."""
    return Onion(as_shape("onion", "shape", shape), number("onion", "thickness", thickness, above=0))


@method
def round(shape: Shape, radius: Scalar) -> Shape:
    """Grow a shape by ``radius`` voxels, which rounds its convex edges. Keeps a true distance outside.

    A negative radius shrinks it.
    """
    return Rounded(as_shape("round", "shape", shape), number("round", "radius", radius))


@method
def elongate(shape: Shape, half: Vector) -> Shape:
    """Pull a shape apart at its centre planes by ``half`` (≥ 0) voxels to each side (x, y, z). A bound inside."""
    return Elongated(as_shape("elongate", "shape", shape), vector("elongate", "half", half, least=0))


@method
def repeat(
    shape: Shape,
    spacing: Vector,
    counts: Vector | None = None,
) -> Shape:
    """Copy a shape ``counts`` times to each side along x, y, z, ``spacing`` voxels (> 0) apart; None: without end.

    True where a copy fits its cell and is symmetric in it; a shape larger than ``spacing`` is cut at the cells.
    """
    shape, spacing = as_shape("repeat", "shape", shape), vector("repeat", "spacing", spacing, above=0)
    if counts is not None:
        counts = vector("repeat", "counts", counts, least=0)
    return Repeated(shape, spacing, counts)


@method
def twist(shape: Shape, rate: Scalar, axis: Axis = "z") -> Shape:
    """Turn each slice across ``axis`` by ``rate`` radians a voxel. Not a true distance: stretched by the twist."""
    shape, rate = as_shape("twist", "shape", shape), number("twist", "rate", rate)
    return _about(axis, shape, lambda upright: Twisted(upright, rate))


@method
def bend(shape: Shape, rate: Scalar, axis: Axis = "z") -> Shape:
    """Curve a shape about ``axis`` by ``rate`` radians a voxel. Not a true distance: stretched by the bend.

    About z and y it is the x axis that is curved, about x the z axis; about another, what the shortest turn of that
    axis to z brings to x.
    """
    shape, rate = as_shape("bend", "shape", shape), number("bend", "rate", rate)
    return _about(axis, shape, lambda upright: Bent(upright, rate))


def _about(axis: Axis, shape: Shape, about_z: Callable[[Shape], Shape]) -> Shape:
    """What is done to a shape about z, about another axis."""
    if isinstance(axis, str) and axis == "z":
        return about_z(shape)
    return orient(about_z(rotate_to(shape, axis, "z")), axis)
