"""Solids: 3D signed distances given directly by a formula."""

import functools
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.algebra import Axis, Rounded
from fdif_jax.sdf.arguments import direction, is_triple, number, vector
from fdif_jax.sdf.lifts import Revolved, stood
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, box_distance, length, node, root, static
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
        return box_distance([jnp.abs(c) - half for c, half in zip(p, (self.x, self.y, self.z), strict=True)])

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Box.around(self.x + margin, self.y + margin, self.z + margin)


@node
class BoxFrame(Shape):
    """The edges of a box of half edges ``x, y, z``, square bars of ``thickness`` voxels within it.

    Source: Inigo Quilez, "Distance functions" (box frame).
    """

    x: Scalar
    y: Scalar
    z: Scalar
    thickness: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        half = self.thickness / 2
        outer = [jnp.abs(c) - edge for c, edge in zip(p, (self.x, self.y, self.z), strict=True)]
        inner = [jnp.abs(c + half) - half for c in outer]
        bars = [[outer[j] if j == i else inner[j] for j in range(3)] for i in range(3)]
        return functools.reduce(jnp.minimum, (box_distance(bar) for bar in bars))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Box.around(self.x + margin, self.y + margin, self.z + margin)


@node
class Ellipsoid(Shape):
    """An ellipsoid of half axes ``x, y, z``. Source: Inigo Quilez, "Ellipsoid SDF": k (k - 1) / |∇k²| · 2."""

    x: Scalar
    y: Scalar
    z: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        halves = (self.x, self.y, self.z)
        k = length(*(c / half for c, half in zip(p, halves, strict=True)))
        slope = length(*(c / (half * half) for c, half in zip(p, halves, strict=True)))
        # At the middle k over its slope has no limit; there, the surface is as far as the least half axis.
        least = jnp.minimum(jnp.minimum(self.x, self.y), self.z)
        middle = k < 1e-4
        return jnp.where(middle, (k - 1) * least, k * (k - 1) / jnp.where(middle, 1.0, slope))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        # Outside, the distance is at least (k - 1) times the least half axis.
        least = jnp.minimum(jnp.minimum(self.x, self.y), self.z)
        grown = 1 + margin / least
        return Box.around(self.x * grown, self.y * grown, self.z * grown)


@node
class HalfSpace(Shape):
    """All that lies below a plane: ``normal`` (of length 1) · p ≤ ``offset``."""

    normal: Float[Array, "3"]
    offset: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.normal[0] * p.x + self.normal[1] * p.y + self.normal[2] * p.z - self.offset


@node
class Slab(Shape):
    """All that lies between two planes: |``normal`` (of length 1) · p| ≤ ``half``."""

    normal: Float[Array, "3"]
    half: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return jnp.abs(self.normal[0] * p.x + self.normal[1] * p.y + self.normal[2] * p.z) - self.half


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


def rounded_box(x: Any, y: Scalar | None = None, z: Scalar | None = None, *, radius: Scalar) -> Rounded:
    """A box as of `box`, its edges rounded by ``radius`` voxels, less than its least half edge. A true distance."""
    radius = number("rounded_box", "radius", radius, least=0)
    inner = [
        number("rounded_box", f"{name} - radius", half - radius, above=0)
        for name, half in zip("xyz", half_edges("rounded_box", x, y, z), strict=True)
    ]
    return Rounded(Cuboid(*inner), radius)


def box_frame(x: Any, y: Scalar | None = None, z: Scalar | None = None, *, thickness: Scalar) -> BoxFrame:
    """The edges of a box as `box` makes it, bars ``thickness`` voxels thick within it. True outside, a bound inside."""
    halves = half_edges("box_frame", x, y, z)
    return BoxFrame(*halves, number("box_frame", "thickness", thickness, above=0))


def ellipsoid(x: Any, y: Scalar | None = None, z: Scalar | None = None) -> Ellipsoid:
    """An ellipsoid of half axes ``x, y, z`` voxels, or one tuple of them. True near its surface, to first order."""
    return Ellipsoid(*half_edges("ellipsoid", x, y, z))


def half_space(normal: Axis = "y", offset: Scalar = 0.0) -> HalfSpace:
    """All below a plane that ``normal`` points out of, ``offset`` voxels along it. A true distance, without bounds."""
    return HalfSpace(direction("half_space", "normal", normal), number("half_space", "offset", offset))


def slab(half: Scalar, axis: Axis = "y") -> Slab:
    """All within ``half`` voxels of a plane across ``axis``. A true distance, without bounds."""
    return Slab(direction("slab", "axis", axis), number("slab", "half", half, above=0))


def cone(radius: Scalar, height: Scalar, axis: Axis = "y") -> Shape:
    """A cone about ``axis``, centred: base ``radius`` and ``height`` in voxels. A true distance."""
    made = Cone(number("cone", "radius", radius, above=0), number("cone", "height", height, above=0))
    return stood(made, "y", axis)


def torus(major_radius: Scalar, minor_radius: Scalar, axis: Axis = "y") -> Shape:
    """A ring about ``axis``; radii of its core circle and of its tube, voxels. A true distance."""
    major = number("torus", "major_radius", major_radius, above=0)
    minor = number("torus", "minor_radius", minor_radius, above=0)
    return stood(Revolved(Circle(minor), major), "y", axis)
