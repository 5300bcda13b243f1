"""Solids: 3D signed distances given directly by a formula."""

import math
from typing import Any

import jax.numpy as jnp

from fdif_jax.sdf.algebra import Axis
from fdif_jax.sdf.arguments import is_triple, number, vector
from fdif_jax.sdf.lifts import Revolved, stood
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, length, node, root, static
from fdif_jax.shapes.profiles import Circle

# The published factor; 1/sqrt(3) would make the distance true.
PUBLISHED_OCTAHEDRON_FACTOR = 0.35773502691896257
OCTAHEDRON_FACTOR = 1 / math.sqrt(3)


@node
class Sphere(Shape):
    """A ball of ``radius`` voxels about the origin."""

    radius: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return length(*p) - self.radius

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.radius + margin
        return Box.around(reach, reach, reach)


@node
class Cuboid(Shape):
    """A box about the origin with half edges ``x, y, z``. Source: Inigo Quilez, "Distance functions"."""

    x: Scalar
    y: Scalar
    z: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        beyond = [jnp.abs(c) - half for c, half in zip(p, (self.x, self.y, self.z), strict=True)]
        deepest = jnp.maximum(jnp.maximum(beyond[0], beyond[1]), beyond[2])
        return jnp.where(deepest > 0, length(*(jnp.maximum(c, 0.0) for c in beyond)), deepest)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Box.around(self.x + margin, self.y + margin, self.z + margin)


@node
class Octahedron(Shape):
    """An octahedron with tips at ``size`` voxels; ``factor`` 1/sqrt(3) makes the distance true on its faces."""

    size: Scalar
    factor: float = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return (jnp.abs(p.x) + jnp.abs(p.y) + jnp.abs(p.z) - self.size) * self.factor

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.size + margin / self.factor
        return Box.around(reach, reach, reach)


@node
class Cone(Shape):
    """A cone about the y axis: base disc of ``radius`` at -height/2, tip at +height/2."""

    radius: Scalar
    height: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        # In the half plane of (distance from the axis beyond the base's rim, height above the base)
        # the mantle is the segment from the origin to (-radius, height) and the base the axis below.
        qx, qy = length(p.x, p.z) - self.radius, p.y + self.height / 2
        ex, ey = -self.radius, self.height
        along = jnp.clip((qx * ex + qy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        mx, my = qx - ex * along, qy - ey * along
        mantle = root(jnp.square(mx) + jnp.square(my))
        return jnp.where(jnp.maximum(mx, my) > 0, mantle, -jnp.minimum(mantle, qy))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        across = self.radius + margin
        return Box.around(across, self.height / 2 + margin, across)


def sphere(radius: Scalar) -> Sphere:
    """A ball of ``radius`` voxels. A true distance."""
    return Sphere(number("sphere", "radius", radius, above=0))


def box(x: Any, y: Scalar | None = None, z: Scalar | None = None) -> Cuboid:
    """A box with half edges ``x, y, z`` voxels, or one tuple of them; a cube of one number. A true distance."""
    return Cuboid(*half_edges("box", x, y, z))


def half_edges(of: str, x: Any, y: Scalar | None, z: Scalar | None) -> tuple[Scalar, Scalar, Scalar]:
    """The half edges of a box from three numbers, one tuple of three, or one number for all."""
    if is_triple(x) and y is None and z is None:
        x, y, z = vector(of, "half edges", x, above=0)
    given = (("x", x), ("y", x if y is None else y), ("z", x if z is None else z))
    x, y, z = (number(of, name, value, above=0) for name, value in given)
    return x, y, z


def octahedron(size: Scalar) -> Octahedron:
    """An octahedron with tips at ``size`` voxels. True on its faces, a bound near its edges."""
    return Octahedron(number("octahedron", "size", size, above=0), OCTAHEDRON_FACTOR)


def cone(radius: Scalar, height: Scalar, axis: Axis = "y") -> Shape:
    """A cone about ``axis``, centred: base ``radius`` and ``height`` in voxels. A true distance."""
    made = Cone(number("cone", "radius", radius, above=0), number("cone", "height", height, above=0))
    return stood(made, "y", axis)


def torus(major_radius: Scalar, minor_radius: Scalar, axis: Axis = "y") -> Shape:
    """A ring about ``axis``; radii of its core circle and of its tube, voxels. A true distance."""
    major = number("torus", "major_radius", major_radius, above=0)
    minor = number("torus", "minor_radius", minor_radius, above=0)
    return stood(Revolved(Circle(minor), major), "y", axis)
