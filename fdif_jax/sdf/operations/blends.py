"""Seams between shapes other than sharp or smooth, shapes between shapes, and what is cut along another's surface.

Source of the formulas: Mercury, "hg_sdf: a glsl library for building signed distance functions".
"""

import jax.numpy as jnp

from fdif_jax.sdf.arguments import count, number
from fdif_jax.sdf.shape import (
    Blend,
    Box,
    Distance,
    Point,
    Scalar,
    Shape,
    Union,
    as_shape,
    length,
    method,
    node,
    static,
)


@node
class Chamfer(Blend):
    """`chamfer`: a flat seam at 45 degrees, which begins ``size`` voxels from the corner."""

    size: Scalar

    def __call__(self, a: Distance, b: Distance) -> Distance:  # noqa: D102
        return jnp.minimum(jnp.minimum(a, b), (a + b - self.size) * jnp.sqrt(0.5))


@node
class Fillet(Blend):
    """`fillet`: a seam that is a quarter of a circle of radius ``size``."""

    size: Scalar

    def __call__(self, a: Distance, b: Distance) -> Distance:  # noqa: D102
        hollow = length(jnp.maximum(self.size - a, 0.0), jnp.maximum(self.size - b, 0.0))
        return jnp.maximum(self.size, jnp.minimum(a, b)) - hollow


@node
class Stairs(Blend):
    """`stairs`: a seam of ``steps`` steps, which begins ``size`` voxels from the corner."""

    size: Scalar
    steps: int = static()

    def __call__(self, a: Distance, b: Distance) -> Distance:  # noqa: D102
        step, u = self.size / self.steps, b - self.size
        phase = u - a + step
        tooth = jnp.abs(phase - 2 * step * jnp.floor(phase / (2 * step)) - step)
        return jnp.minimum(jnp.minimum(a, b), 0.5 * (u + a + tooth))


@node
class Grooved(Shape):
    """`groove`, and with ``raised`` `tongue`: a shape with a channel, or a ridge, along another one's surface."""

    shape: Shape
    along: Shape
    depth: Scalar
    width: Scalar
    raised: bool = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        d, beside = self.shape(p), jnp.abs(self.along(p)) - self.width / 2
        if self.raised:
            return jnp.minimum(d, jnp.maximum(d - self.depth, beside))
        return jnp.maximum(d, jnp.minimum(d + self.depth, -beside))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return self.shape.bounds(margin + self.depth if self.raised else margin)


@node
class Morphed(Shape):
    """`morph`: the mean of two distances."""

    first: Shape
    second: Shape
    amount: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.first(p) * (1 - self.amount) + self.second(p) * self.amount

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Union(self.first, self.second).bounds(margin)


def chamfer(size: Scalar) -> Chamfer:
    """A flat seam, ``size`` voxels wide on either shape: ``fd.union(a, b, smooth=fd.chamfer(3.0))``. A bound.

    As for `fillet` and `stairs`, intersections and differences take it, too.
    """
    return Chamfer(number("chamfer", "size", size, above=0))


def fillet(radius: Scalar) -> Fillet:
    """A seam that is a quarter of a circle of ``radius`` voxels where the shapes meet at right angles. A bound."""
    return Fillet(number("fillet", "radius", radius, above=0))


def stairs(size: Scalar, steps: int) -> Stairs:
    """A seam of ``steps`` steps, ``size`` voxels wide on either shape. A bound."""
    return Stairs(number("stairs", "size", size, above=0), count("stairs", "steps", steps, least=1))


@method
def groove(shape: Shape, along: Shape, depth: Scalar, width: Scalar) -> Shape:
    """Cut a channel of ``depth`` and ``width`` voxels into a shape where the surface of ``along`` meets it. A bound."""
    return _grooved("groove", shape, along, depth, width, raised=False)


@method
def tongue(shape: Shape, along: Shape, depth: Scalar, width: Scalar) -> Shape:
    """Raise a ridge, ``depth`` voxels high, on a shape where the surface of ``along`` meets it. A bound."""
    return _grooved("tongue", shape, along, depth, width, raised=True)


def _grooved(of: str, shape: Shape, along: Shape, depth: Scalar, width: Scalar, *, raised: bool) -> Shape:
    parts = as_shape(of, "shape", shape), as_shape(of, "along", along)
    return Grooved(*parts, number(of, "depth", depth, above=0), number(of, "width", width, above=0), raised)


@method
def morph(first: Shape, second: Shape, amount: Scalar) -> Shape:
    """The shape that is ``amount``, 0 … 1, of the way from one to another. A bound of its own surface."""
    parts = as_shape("morph", "first", first), as_shape("morph", "second", second)
    return Morphed(*parts, number("morph", "amount", amount, least=0))
