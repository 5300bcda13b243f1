"""Polyhedra: the regular ones, pyramids, and whatever some planes enclose."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.sdf.algebra import Axis
from fdif_jax.sdf.arguments import number, points, vector
from fdif_jax.sdf.lifts import stood
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, length, node, root, static

_GOLDEN = (1 + math.sqrt(5)) / 2


class _Chamber(NamedTuple):
    """What the mirrors of a regular polyhedron leave of space, and the right triangle of its surface in there.

    Attributes:
        walls: unit normals of three mirrors, pointing inwards: through face and edge, edge and corner, face and corner.
        rounds: how often a point is held against all three until it is in the chamber.
        face: unit normal of the face.
        along: unit vector from the face's middle to the edge's.
        across: unit vector from there to the corner.
        inner: distance of the face from the middle; this and the next two for corners at distance 1.
        edge: distance of the edge's middle from the face's.
        corner: distance of the corner from the edge's middle.
    """

    walls: np.ndarray
    rounds: int
    face: np.ndarray
    along: np.ndarray
    across: np.ndarray
    inner: float
    edge: float
    corner: float

    @classmethod
    def of(cls, face: Any, edge: Any, corner: Any, rounds: int) -> "_Chamber":
        """The chamber between the directions of a face's middle, an edge's middle and a corner of that face."""
        f, e, c = (np.asarray(v, np.float64) / np.linalg.norm(v) for v in (face, edge, corner))
        inner = f @ c
        along, corner_at = e * inner / (f @ e) - f * inner, c - f * inner
        across = corner_at - along
        sides = [(f, e, c), (e, c, f), (f, c, e)]
        normals = [np.cross(a, b) * np.sign(np.cross(a, b) @ other) for a, b, other in sides]
        to_edge, to_corner = float(np.linalg.norm(along)), float(np.linalg.norm(across))
        walls = np.stack([n / np.linalg.norm(n) for n in normals])
        return cls(walls, rounds, f, along / to_edge, across / to_corner, float(inner), to_edge, to_corner)


# Rounds: half the Coxeter number of the mirrors' group; the first two walls stand at right angles.
_CHAMBERS = {
    "tetrahedron": _Chamber.of((1, 1, -1), (1, 0, 0), (1, 1, 1), 2),
    "octahedron": _Chamber.of((1, 1, 1), (1, 1, 0), (1, 0, 0), 3),
    "icosahedron": _Chamber.of((_GOLDEN, 0, 2 * _GOLDEN + 1), (0, 0, 1), (0, 1, _GOLDEN), 5),
    "dodecahedron": _Chamber.of((0, 1, _GOLDEN), (0, 0, 1), (_GOLDEN, 0, 2 * _GOLDEN + 1), 5),
}


@node
class Regular(Shape):
    """A regular polyhedron with corners at ``size`` voxels.

    A point is folded by the mirrors of its symmetry until the nearest part of the surface is one right triangle.
    """

    size: Scalar
    kind: str = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        chamber = _CHAMBERS[self.kind]
        folded = tuple(p)
        for wall in [*chamber.walls] * chamber.rounds:
            behind = 2 * jnp.minimum(_dot(wall, folded), 0.0)
            folded = tuple(c - float(n) * behind for c, n in zip(folded, wall, strict=True))
        above = _dot(chamber.face, folded) - chamber.inner * self.size
        along = _dot(chamber.along, folded) - chamber.edge * self.size
        across = _dot(chamber.across, folded) - chamber.corner * self.size
        outside = length(jnp.maximum(above, 0.0), jnp.maximum(along, 0.0), jnp.maximum(across, 0.0))
        return jnp.where(above > 0, outside, above)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.size + margin
        return Box.around(reach, reach, reach)


def _dot(vector: np.ndarray, p: tuple) -> Distance:
    return float(vector[0]) * p[0] + float(vector[1]) * p[1] + float(vector[2]) * p[2]


@node
class Pyramid(Shape):
    """A pyramid about the y axis: a square base of half edge ``half`` at -height/2, the tip at +height/2."""

    half: Scalar
    height: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        # Fold to the face towards +x; in its plane the half face is the triangle (0, 0), (0, half), (slant, 0).
        x, z, y = jnp.maximum(jnp.abs(p.x), jnp.abs(p.z)), jnp.minimum(jnp.abs(p.x), jnp.abs(p.z)), p.y
        half, height, y = self.half, self.height, y + self.height / 2
        slant = jnp.sqrt(half * half + height * height)
        up = ((half - x) * half + y * height) / slant
        out = ((x - half) * height + y * half) / slant
        edge = half * half + slant * slant
        along = jnp.clip((up * slant + (half - z) * half) / edge, 0.0, 1.0)
        beside = jnp.square(jnp.maximum(z - half, 0.0))
        to_edge = jnp.square(up - along * slant) + jnp.square(z - half + along * half)
        over = (up >= 0) & (up * half + z * slant <= slant * half)
        to_face = jnp.square(out) + jnp.where(over, 0.0, jnp.minimum(to_edge, jnp.square(up) + beside))
        to_base = jnp.square(y) + jnp.square(jnp.maximum(x - half, 0.0)) + beside
        # Under its plane the base is nearest, and above it the faces, to which its edges belong.
        outside = root(jnp.where(y < 0, to_base, to_face))
        return jnp.where((y > 0) & (out < 0), jnp.maximum(-y, out), outside)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Box.around(self.half + margin, self.height / 2 + margin, self.half + margin)


@node
class Convex(Shape):
    """What lies below all planes ``normals`` ``(n, 3)``, of length 1, · p = ``offsets`` ``(n,)``."""

    normals: Float[Array, "n 3"]
    offsets: Float[Array, " n"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        # A plane after the other: fused, and never n arrays at once.
        highest = jnp.float32(-jnp.inf)
        for (x, y, z), offset in zip(self.normals, self.offsets, strict=True):
            highest = jnp.maximum(highest, x * p.x + y * p.y + z * p.z - offset)
        return highest


def tetrahedron(size: Scalar) -> Regular:
    """A regular tetrahedron with corners at ``size`` voxels, one along (1, 1, 1). A true distance."""
    return _regular("tetrahedron", size)


def octahedron(size: Scalar) -> Regular:
    """A regular octahedron with tips at ``size`` voxels on the axes. A true distance."""
    return _regular("octahedron", size)


def dodecahedron(size: Scalar) -> Regular:
    """A regular dodecahedron with corners at ``size`` voxels. A true distance."""
    return _regular("dodecahedron", size)


def icosahedron(size: Scalar) -> Regular:
    """A regular icosahedron with corners at ``size`` voxels. A true distance."""
    return _regular("icosahedron", size)


def _regular(kind: str, size: Scalar) -> Regular:
    return Regular(number(kind, "size", size, above=0), kind)


def pyramid(half: Scalar, height: Scalar, axis: Axis = "y") -> Shape:
    """A pyramid about ``axis``, centred: half edge of its square base, height, voxels. A true distance."""
    made = Pyramid(number("pyramid", "half", half, above=0), number("pyramid", "height", height, above=0))
    return stood(made, "y", axis)


def convex(normals: Float[Array, "n 3"], offsets: Float[Array, " n"]) -> Convex:
    """What planes enclose: all p with ``normals`` · p ≤ ``offsets`` voxels along them; normals (n, 3) are not all 0.

    A bound outside, true inside. Its bounds are not known: `fd.bounded` gives it some.
    """
    normals = points("convex", "normals", normals, size=3, least=1)
    offsets = vector("convex", "offsets", offsets, size=len(normals))
    return Convex(normals / jnp.linalg.norm(normals, axis=1, keepdims=True), offsets)
