"""Profiles: exact 2D signed distances, to be extruded or revolved."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.sdf.arguments import count, number, points
from fdif_jax.sdf.shape import Coordinate, Distance, Profile, Scalar, length, node, root, signed, static


@node
class Circle(Profile):
    """A disc of ``radius`` voxels about the origin."""

    radius_: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        return length(u, v) - self.radius_

    def radius(self) -> Scalar:  # noqa: D102
        return self.radius_


@node
class Polygon(Profile):
    """A simple polygon; ``vertices`` float32 ``(n, 2)`` in voxels, in order along its outline.

    Source: Inigo Quilez, "2D distance functions": the least distance to the edges, with the sign by the parity of
    edge crossings found in the same pass.
    """

    vertices: Float[Array, "n 2"]

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        count = self.vertices.shape[0]
        squared, inside = jnp.asarray(jnp.inf), jnp.asarray(False)
        for i in range(count):
            (au, av), (bu, bv) = self.vertices[i], self.vertices[(i + 1) % count]
            eu, ev = bu - au, bv - av
            wu, wv = u - au, v - av
            along = jnp.clip((wu * eu + wv * ev) * (1 / jnp.maximum(eu * eu + ev * ev, 1e-12)), 0.0, 1.0)
            squared = jnp.minimum(squared, jnp.square(wu - eu * along) + jnp.square(wv - ev * along))
            above_a, above_b = v >= av, v >= bv
            left = eu * wv > ev * wu
            inside = inside ^ ((above_a != above_b) & (left == above_a))
        return signed(inside, root(squared))

    def radius(self) -> Scalar:  # noqa: D102
        return jnp.sqrt(jnp.max(jnp.sum(jnp.square(self.vertices), axis=-1)))


@node
class Star(Profile):
    """A regular star of ``points`` tips at ``radius`` voxels; ``ratio`` 0 … 1 from spiky to blunt.

    Source: Inigo Quilez, "2D distance functions" (star). The angle is never computed: the plane is folded into one
    sector by comparing against the sector borders, of which there are ``borders`` on one side (enough for
    ``points`` ≤ 2·borders + 1).
    """

    points: Scalar
    radius_: Scalar
    ratio: Scalar
    borders: int = static(4)

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        sector = 2 * np.pi / self.points
        inner = jnp.pi / (self.points + self.ratio * (2 - self.points))
        mirrored = jnp.abs(u)
        # Find the sector of the angle from +v by the borders passed, and its middle direction with it.
        cos, sin = jnp.cos(sector / 2), jnp.sin(sector / 2)
        for k in range(1, self.borders + 1):
            border, middle = k * sector, (k + 0.5) * sector
            passed = (mirrored * jnp.cos(border) >= v * jnp.sin(border)) & (border < jnp.pi)
            cos = jnp.where(passed, jnp.cos(middle), cos)
            sin = jnp.where(passed, jnp.sin(middle), sin)
        tip, side = jnp.cos(sector / 2), jnp.sin(sector / 2)
        qx = mirrored * sin + v * cos - self.radius_ * tip
        qy = jnp.abs(mirrored * cos - v * sin) - self.radius_ * side
        along = jnp.clip(
            -(qx * jnp.cos(inner) + qy * jnp.sin(inner)), 0, self.radius_ * side / jnp.sin(inner)
        )
        qx, qy = qx + jnp.cos(inner) * along, qy + jnp.sin(inner) * along
        return jnp.sign(qx) * length(qx, qy)

    def radius(self) -> Scalar:  # noqa: D102
        return self.radius_


def circle(radius: Scalar) -> Circle:
    """A disc of ``radius`` voxels."""
    return Circle(number("circle", "radius", radius, above=0))


def polygon(vertices: Float[Array, "n 2"]) -> Polygon:
    """A simple polygon through ``vertices`` (n, 2), n ≥ 3, voxels."""
    return Polygon(points("polygon", "vertices", vertices, size=2, least=3))


def star(tips: int, radius: Scalar, ratio: Scalar) -> Star:
    """A star of ``tips`` ≥ 3 tips at ``radius`` voxels; ``ratio`` 0 (needles) … 1 (regular polygon)."""
    tips = count("star", "tips", tips, least=3)
    radius, ratio = number("star", "radius", radius, above=0), number("star", "ratio", ratio, least=0)
    return Star(float(tips), radius, ratio, borders=max(4, tips // 2))
