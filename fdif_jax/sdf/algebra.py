"""The algebra of shapes: small functions that make shapes from shapes.

Every operation keeps the sign of the distance exact. Each says below whether it also keeps a *true distance*
(|gradient| = 1) or only a *bound* (never greater than the true distance to the surface, unless it says otherwise).
Formulas for the exact and smooth forms follow Inigo Quilez's articles on distance functions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.affine import invert, move, rotation
from fdif_jax.sdf.shape import Box, Coordinate, Distance, Point, Scalar, Shape, node


@node
class Displaced(Shape):
    """`displace`: a shape with a field added to its distance."""

    shape: Shape
    field: Callable[[Point], Distance]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.shape(p) + self.field(p)


@node
class Mapped:
    """`map`: a shape's distance turned into intensity; call it with a `Point`."""

    shape: Shape
    mapper: Callable[[Distance], Distance]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.mapper(self.shape(p))


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
        return self.shape.bounds(margin + self.radius)


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
    """`repeat`: copies of a shape on a lattice."""

    shape: Shape
    spacing: Float[Array, "3"]
    counts: Float[Array, "3"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        def fold(c: Coordinate, spacing: Scalar, count: Scalar) -> Distance:
            cell = jnp.clip(jnp.round(c / spacing), -count, count)
            return c - spacing * cell

        return self.shape(Point(*(fold(*of) for of in zip(p, self.spacing, self.counts, strict=True))))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
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


@node
class Bent(Shape):
    """`bend`: a shape whose x axis is curved in the x-y plane."""

    shape: Shape
    rate: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        cos, sin = jnp.cos(self.rate * p.x), jnp.sin(self.rate * p.x)
        return self.shape(Point(cos * p.x - sin * p.y, sin * p.x + cos * p.y, p.z))


def displace(shape: Shape, field: Callable[[Point], Distance]) -> Shape:
    """Add ``field(point)`` (voxels) to the distance. Neither true nor a bound: as rough as the field is.

    ``field`` is any callable pytree; wrap a plain function in `jax.tree_util.Partial`.
    """
    return Displaced(shape, _as_pytree(field))


def map(shape: Shape, mapper: Callable[[Distance], Distance]) -> Mapped:
    """The intensity field ``mapper(shape(point))``."""
    return Mapped(shape, _as_pytree(mapper))


def _as_pytree(function: Callable) -> Callable:
    is_leaf = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if is_leaf else function


def transform(shape: Shape, matrix: Float[Array, "4 4"] | Float[Array, "3 4"]) -> Shape:
    """Move a shape by an affine ``matrix`` acting on column vectors (x, y, z, 1).

    True for rotations, reflections and translations; otherwise the distance is measured before the move.
    """
    return Affine(shape, invert(jnp.asarray(matrix, jnp.float32)[:3]))


def translate(shape: Shape, offset: tuple[Scalar, Scalar, Scalar] | Float[Array, "3"]) -> Shape:
    """Move a shape by ``offset`` voxels (x, y, z). Keeps a true distance."""
    inverse = jnp.concatenate([jnp.eye(3), -jnp.asarray(offset, jnp.float32)[:, None]], axis=1)
    return Affine(shape, inverse)


def rotate(shape: Shape, angle: Scalar, axis: tuple[Scalar, Scalar, Scalar] = (0.0, 0.0, 1.0)) -> Shape:
    """Turn a shape by ``angle`` radians about ``axis`` through the origin. Keeps a true distance."""
    inverse = jnp.concatenate([rotation(axis, angle).T, jnp.zeros((3, 1))], axis=1)
    return Affine(shape, inverse)


def shear(shape: Shape, xy: Scalar = 0.0, xz: Scalar = 0.0, yz: Scalar = 0.0) -> Shape:
    """Shear by the symmetric matrix with unit diagonal and these entries. Not a true distance any more."""
    linear = jnp.asarray([[1.0, xy, xz], [xy, 1.0, yz], [xz, yz, 1.0]], jnp.float32)
    return transform(shape, jnp.concatenate([linear, jnp.zeros((3, 1))], axis=1))


def scale(shape: Shape, factor: Scalar) -> Shape:
    """Grow a shape by ``factor`` (> 0) about the origin. Keeps a true distance."""
    return Scaled(shape, factor)


def onion(shape: Shape, thickness: Scalar) -> Shape:
    """The shell within ``thickness`` voxels of the surface. Keeps a true distance."""
    return Onion(shape, thickness)


def round(shape: Shape, radius: Scalar) -> Shape:
    """Grow a shape by ``radius`` voxels, which rounds its convex edges. Keeps a true distance outside."""
    return Rounded(shape, radius)


def elongate(shape: Shape, half: tuple[Scalar, Scalar, Scalar] | Float[Array, "3"]) -> Shape:
    """Pull a shape apart at its centre planes by ``half`` voxels to each side (x, y, z). A bound inside."""
    return Elongated(shape, jnp.asarray(half, jnp.float32))


def repeat(
    shape: Shape,
    spacing: tuple[Scalar, Scalar, Scalar] | Float[Array, "3"],
    counts: tuple[Scalar, Scalar, Scalar] | Float[Array, "3"],
) -> Shape:
    """Copy a shape ``counts`` times to each side along x, y, z, ``spacing`` voxels (> 0) apart.

    True where a copy fits its cell and is symmetric in it; a shape larger than ``spacing`` is cut at the cells.
    """
    return Repeated(shape, jnp.asarray(spacing, jnp.float32), jnp.asarray(counts, jnp.float32))


def twist(shape: Shape, rate: Scalar) -> Shape:
    """Turn each z slice by ``rate`` radians a voxel of height. Not a true distance: stretched by the twist."""
    return Twisted(shape, rate)


def bend(shape: Shape, rate: Scalar) -> Shape:
    """Curve the x axis by ``rate`` radians a voxel. Not a true distance: stretched by the bend."""
    return Bent(shape, rate)
