"""More profiles: 2D signed distances, and what moves and changes them. Two of them join by ``|``, ``&`` and ``-``.

Source of the formulas: Inigo Quilez, "2D distance functions".
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.arguments import count, number, vector
from fdif_jax.sdf.shape import (
    Coordinate,
    Distance,
    Profile,
    Scalar,
    as_profile,
    box_distance,
    length,
    node,
    profile_method,
)
from fdif_jax.shapes.profiles import Star


@node
class Rectangle(Profile):
    """A rectangle of half edges ``u, v``."""

    u: Scalar
    v: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        return box_distance([jnp.abs(u) - self.u, jnp.abs(v) - self.v])

    def radius(self) -> Scalar:  # noqa: D102
        return jnp.sqrt(self.u * self.u + self.v * self.v)


@node
class Vesica(Profile):
    """What two discs of radius ``disc``, their middles ``apart`` to each side along u, have in common."""

    disc: Scalar
    apart: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        u, v, tip = jnp.abs(u), jnp.abs(v), self.radius()
        at_tip = (v - tip) * self.apart > u * tip
        return jnp.where(at_tip, length(u, v - tip), length(u + self.apart, v) - self.disc)

    def radius(self) -> Scalar:  # noqa: D102
        return jnp.sqrt(self.disc * self.disc - self.apart * self.apart)


@node
class RoundedX(Profile):
    """All within ``thickness`` of a cross of two diagonals of a square with edges ``width``."""

    width: Scalar
    thickness: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        u, v = jnp.abs(u), jnp.abs(v)
        nearest = jnp.minimum(u + v, self.width) / 2
        return length(u - nearest, v - nearest) - self.thickness

    def radius(self) -> Scalar:  # noqa: D102
        return self.width * jnp.sqrt(0.5) + self.thickness


@node
class Offset(Profile):
    """`offset`: a profile grown by a distance."""

    profile: Profile
    distance: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        return self.profile(u, v) - self.distance

    def radius(self) -> Scalar:  # noqa: D102
        return self.profile.radius() + jnp.maximum(self.distance, 0.0)


@node
class Outline(Profile):
    """`outline`: the band around a profile's outline."""

    profile: Profile
    thickness: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        return jnp.abs(self.profile(u, v)) - self.thickness

    def radius(self) -> Scalar:  # noqa: D102
        return self.profile.radius() + self.thickness


@node
class Placed(Profile):
    """`place`: a profile turned and shifted."""

    profile: Profile
    offset: Float[Array, "2"]
    angle: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        cos, sin = jnp.cos(self.angle), jnp.sin(self.angle)
        u, v = u - self.offset[0], v - self.offset[1]
        return self.profile(cos * u + sin * v, cos * v - sin * u)

    def radius(self) -> Scalar:  # noqa: D102
        return self.profile.radius() + jnp.linalg.norm(self.offset)


def rectangle(u: Scalar, v: Scalar) -> Rectangle:
    """A rectangle with half edges ``u, v`` voxels."""
    return Rectangle(number("rectangle", "u", u, above=0), number("rectangle", "v", v, above=0))


def rounded_rectangle(u: Scalar, v: Scalar, radius: Scalar) -> Offset:
    """A rectangle with half edges ``u, v`` and corners of ``radius`` voxels, less than the shorter of them."""
    radius = number("rounded_rectangle", "radius", radius, least=0)
    u, v = (
        number("rounded_rectangle", f"{n} - radius", half - radius, above=0)
        for n, half in (
            ("u", number("rounded_rectangle", "u", u)),
            ("v", number("rounded_rectangle", "v", v)),
        )
    )
    return Offset(Rectangle(u, v), radius)


def regular_polygon(sides: int, radius: Scalar) -> Star:
    """A polygon of ``sides`` equal sides, its corners at ``radius`` voxels, one of them on the v axis."""
    sides = count("regular_polygon", "sides", sides, least=3)
    radius = number("regular_polygon", "radius", radius, above=0)
    return Star(float(sides), radius, 1.0, borders=max(4, sides // 2))


def hexagon(radius: Scalar) -> Star:
    """A regular hexagon, its corners at ``radius`` voxels."""
    return regular_polygon(6, radius)


def vesica(radius: Scalar, apart: Scalar) -> Vesica:
    """What two discs of ``radius``, their middles ``apart`` (< radius) to each side along u, have in common."""
    apart = number("vesica", "apart", apart, least=0)
    number("vesica", "radius - apart", number("vesica", "radius", radius, above=0) - apart, above=0)
    return Vesica(radius, apart)


def rounded_x(width: Scalar, thickness: Scalar) -> RoundedX:
    """All within ``thickness`` voxels of the diagonals of a square with edges ``width``."""
    width = number("rounded_x", "width", width, above=0)
    return RoundedX(width, number("rounded_x", "thickness", thickness, above=0))


@profile_method
def offset(profile: Profile, distance: Scalar) -> Offset:
    """A profile grown by ``distance`` voxels, which rounds its corners; shrunk if that is negative. True outside."""
    return Offset(as_profile("offset", "profile", profile), number("offset", "distance", distance))


@profile_method
def outline(profile: Profile, thickness: Scalar) -> Outline:
    """The band within ``thickness`` voxels of a profile's outline. Keeps a true distance."""
    profile = as_profile("outline", "profile", profile)
    return Outline(profile, number("outline", "thickness", thickness, above=0))


@profile_method
def place(profile: Profile, at: Any = (0.0, 0.0), angle: Scalar = 0.0) -> Placed:
    """A profile turned by ``angle`` radians and then shifted by ``at`` (u, v) voxels. Keeps a true distance."""
    profile = as_profile("place", "profile", profile)
    return Placed(profile, vector("place", "at", at, size=2), number("place", "angle", angle))
