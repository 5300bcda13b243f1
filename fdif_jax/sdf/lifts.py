"""Lifts: from a 2D profile to a 3D shape, by extrusion along z or revolution about y.

Source of the formulas: the FDIF implementation (arXiv 2603.23199), described in this project's specification.
"""

import jax.numpy as jnp

from fdif_jax.sdf.algebra import Axis, rotate_to
from fdif_jax.sdf.arguments import instance, number
from fdif_jax.sdf.shape import (
    Box,
    Coordinate,
    Distance,
    Point,
    Profile,
    Scalar,
    Shape,
    as_profile,
    length,
    node,
    profile_method,
)


@node
class Taper:
    """How an extruded section is scaled along its height; made by `no_taper`, `linear_taper`, `neck_taper`.

    The scale is 1 at z = -h and runs linearly to ``second_scale`` at the neck, ``below`` voxels higher, then back
    to 1 at z = +h, ``above`` voxels higher still; both lines go on beyond ±h, and either length may be negative.
    ``above`` 0 puts the neck at the top and leaves out the second line. Lengths from the neck are kept instead of
    its position because their differences decide the slopes, which float32 would otherwise lose.
    """

    second_scale: Scalar
    below: Scalar
    above: Scalar

    def __call__(self, z: Coordinate, half_height: Scalar) -> Distance:
        """Scale of the section at height ``z``; at least 1e-6."""
        rising = (z + half_height) / _nonzero(self.below)
        falling = (half_height - z) / _nonzero(self.above)
        first = (self.above == 0) | (z < self.below - half_height)
        return jnp.maximum(1 + (self.second_scale - 1) * jnp.where(first, rising, falling), 1e-6)

    def highest(self, lower: Scalar, upper: Scalar, half_height: Scalar) -> Scalar:
        """The largest scale over lower ≤ z ≤ upper; the scale is piecewise linear, so a few points tell."""
        neck = self.below - half_height
        # At the neck both lines meet, but for rounding: look at both its sides.
        candidates = jnp.stack([jnp.asarray(v, jnp.float32) for v in (lower, upper, neck - 1e-3, neck)])
        return jnp.max(self(jnp.clip(candidates, lower, upper), half_height))


def _nonzero(value: Scalar) -> Scalar:
    return jnp.where(value == 0, 1e-6, value)


def no_taper(half_height: Scalar) -> Taper:
    """A straight prism."""
    return linear_taper(half_height, 1.0)


def linear_taper(half_height: Scalar, second_scale: Scalar) -> Taper:
    """A scale that runs from 1 at the bottom to ``second_scale`` at the top."""
    return Taper(second_scale, 2 * half_height, 0.0)


def neck_taper(half_height: Scalar, second_scale: Scalar, neck: Scalar) -> Taper:
    """A scale that runs from 1 at the bottom to ``second_scale`` at height ``neck`` voxels and back to 1."""
    return Taper(second_scale, neck + half_height, half_height - neck)


@node
class Extruded(Shape):
    """`extrude`: a prism along z, tapered and hollowed if so wished.

    ``thickness`` 0 stands for a solid; otherwise the section is the shell of that thickness around the profile.
    """

    profile: Profile
    half_height: Scalar
    taper: Taper
    thickness: Scalar = 0.0

    def section(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Distance:
        """Distance to the tapered profile within the plane at height ``z``, not hollowed."""
        scale = self.taper(z, self.half_height)
        return scale * self.profile(x / scale, y / scale)

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        d = self.section(*p)
        d = jnp.where(self.thickness > 0, jnp.abs(d) - self.thickness, d)
        return within_slab(d, jnp.abs(p.z) - self.half_height)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        top = self.half_height + margin
        widest = self.taper.highest(-top, top, self.half_height)
        across = self.profile.radius() * widest + self.thickness + margin
        return Box.around(across, across, top)


def within_slab(d: Distance, above: Distance) -> Distance:
    """The distance to a prism from that to its section and that to the planes above and below."""
    outside = length(jnp.maximum(d, 0.0), jnp.maximum(above, 0.0))
    return jnp.where(jnp.maximum(d, above) > 0, outside, jnp.maximum(d, above))


@node
class Revolved(Shape):
    """`revolve`: a profile turned about the y axis at a distance from it."""

    profile: Profile
    distance: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.profile(length(p.x, p.z) - self.distance, p.y)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.profile.radius() + margin
        return Box.around(self.distance + reach, reach, self.distance + reach)


@profile_method
def extrude(
    profile: Profile,
    half_height: Scalar,
    taper: Taper | None = None,
    thickness: Scalar = 0.0,
    axis: Axis = "z",
) -> Shape:
    """A prism: ``profile`` in the x-y plane for |z| ≤ ``half_height`` voxels.

    Args:
        profile: the 2D section.
        half_height: half the height in voxels (> 0).
        taper: scale of the section along z; None for a straight prism. A tapered distance is not true.
        thickness: voxels; above 0 keeps only the shell |d| ≤ thickness of every section.
        axis: where the prism's z axis points.

    Returns:
        A shape; a true distance where there is no taper and the profile is true.
    """
    profile = as_profile("extrude", "profile", profile)
    half_height = number("extrude", "half_height", half_height, above=0)
    taper = no_taper(half_height) if taper is None else instance("extrude", "taper", taper, Taper, _TAPER)
    made = Extruded(profile, half_height, taper, number("extrude", "thickness", thickness, least=0))
    return stood(made, "z", axis)


@profile_method
def revolve(profile: Profile, distance: Scalar = 0.0, axis: Axis = "y") -> Shape:
    """Turn ``profile`` about an axis, y if not said otherwise, its origin ``distance`` voxels away from it.

    A true distance where the profile does not reach across the axis; a bound where it does.
    """
    made = Revolved(
        as_profile("revolve", "profile", profile), number("revolve", "distance", distance, least=0)
    )
    return stood(made, "y", axis)


_TAPER = "shapes.linear_taper(12.0, 0.5)"


def stood(shape: Shape, usual: Axis, axis: Axis) -> Shape:
    """A shape turned so that its ``usual`` axis points along ``axis``; as it is where both have the same name."""
    same = isinstance(axis, str) and isinstance(usual, str) and axis == usual
    return shape if same else rotate_to(shape, usual, axis)
