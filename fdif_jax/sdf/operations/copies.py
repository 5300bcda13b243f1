"""Copies of a shape: mirrored, and around an axis. Copies on a lattice are `fdif_jax.sdf.algebra.repeat`'s."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.sdf.algebra import Affine, Axis, Vector, around_z
from fdif_jax.sdf.arguments import count, direction, vector
from fdif_jax.sdf.lifts import stood
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, as_shape, method, node


@node
class Symmetric(Shape):
    """`symmetric`: a point behind the plane is taken for its mirror image."""

    shape: Shape
    normal: Float[Array, "3"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        x, y, z = self.normal
        behind = 2 * jnp.minimum(x * p.x + y * p.y + z * p.z, 0.0)
        return self.shape(Point(p.x - x * behind, p.y - y * behind, p.z - z * behind))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        box = self.shape.bounds(margin)
        image = box.mapped(_reflection(self.normal, jnp.zeros(3)))
        return Box(jnp.minimum(box.lower, image.lower), jnp.maximum(box.upper, image.upper))


@node
class Around(Shape):
    """`repeat_around` the z axis: a point is turned into the sector about the x axis."""

    shape: Shape
    number: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        # Which sector it is has no slope, and the axis itself none that could be computed.
        x, y = lax.stop_gradient((p.x, p.y))
        step = 2 * jnp.pi / self.number
        turn = step * jnp.round(jnp.arctan2(y, x) / step)
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        return self.shape(Point(cos * p.x + sin * p.y, cos * p.y - sin * p.x, p.z))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return around_z(self.shape.bounds(margin))


@method
def mirror(shape: Shape, normal: Axis = "x", through: Vector = (0.0, 0.0, 0.0)) -> Shape:
    """The mirror image of a shape in the plane through a point and across ``normal``. Keeps a true distance."""
    shape, normal = as_shape("mirror", "shape", shape), direction("mirror", "normal", normal)
    return Affine(shape, _reflection(normal, vector("mirror", "through", through)))  # its own inverse


def _reflection(normal: Float[Array, "3"], through: Float[Array, "3"]) -> Float[Array, "3 4"]:
    """The affine matrix of a reflection."""
    offset = 2 * jnp.dot(normal, through) * normal
    return jnp.concatenate([jnp.eye(3) - 2 * jnp.outer(normal, normal), offset[:, None]], axis=1)


@method
def symmetric(shape: Shape, normal: Axis = "x") -> Shape:
    """The part of a shape that ``normal`` points to from the origin, and its mirror image.

    A true distance where the shape lies on that side, else a bound.
    """
    return Symmetric(as_shape("symmetric", "shape", shape), direction("symmetric", "normal", normal))


@method
def repeat_around(shape: Shape, number: int, axis: Axis = "z") -> Shape:
    """``number`` copies around ``axis`` of what lies in the sector about x (for z: ±180° / number from it).

    True where the shape is symmetric in its sector and fits it; what reaches beyond is cut.
    """
    copies = count("repeat_around", "number", number, least=1)
    upright = stood(as_shape("repeat_around", "shape", shape), axis, "z")
    return stood(Around(upright, float(copies)), "z", axis)
