"""Rods: solids along a line or a curve, and those that turn about an axis."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.sdf.algebra import Axis, Vector
from fdif_jax.sdf.arguments import count, number, points, vector
from fdif_jax.sdf.lifts import Revolved, stood
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, length, node, root
from fdif_jax.shapes.flat import Rectangle
from fdif_jax.shapes.profiles import Polygon


@node
class Tube(Shape):
    """Balls of radii ``radii`` ``(n,)`` at ``points`` ``(n, 3)`` and all balls between neighbours."""

    points: Float[Array, "n 3"]
    radii: Float[Array, " n"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        segments = self.points[:-1], self.points[1:], self.radii[:-1], self.radii[1:]
        if len(self.points) == 2:
            return round_cone_distance(p, *(values[0] for values in segments))
        far = jnp.full(jnp.broadcast_shapes(*map(jnp.shape, p)), jnp.inf, jnp.float32)

        def nearer(d: Any, segment: Any) -> tuple[Any, None]:
            return jnp.minimum(d, round_cone_distance(p, *segment)), None

        return lax.scan(nearer, far, segments)[0]

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.radii[:, None] + margin
        return Box(jnp.min(self.points - reach, axis=0), jnp.max(self.points + reach, axis=0))


def round_cone_distance(
    p: Point, start: Float[Array, "3"], end: Float[Array, "3"], first: Scalar, second: Scalar
) -> Distance:
    """Distance to all balls from one at ``start`` to one at ``end``, their radii from ``first`` to ``second``.

    In the half plane of (distance from the axis, height along it) the mantle is a straight line that leans by
    the sine ``lean``. Source: Inigo Quilez, "Distance functions" (round cone).
    """
    height = jnp.maximum(length(*(end - start)), 1e-6)
    axis = (end - start) / height
    offset = [c - s for c, s in zip(p, start, strict=True)]
    along = offset[0] * axis[0] + offset[1] * axis[1] + offset[2] * axis[2]
    across = length(*(c - a * along for c, a in zip(offset, axis, strict=True)))
    lean = jnp.clip((first - second) / height, -1.0, 1.0)
    upright = root(1 - lean * lean)
    where = along * upright - across * lean
    lower = length(across, along) - first
    upper = length(across, along - height) - second
    mantle = across * upright + along * lean - first
    # Where one ball holds the other there is no mantle.
    d = jnp.where((where < 0) | (lean >= 1), lower, mantle)
    return jnp.where(((where > upright * height) & (lean < 1)) | (lean <= -1), upper, d)


@node
class Helix(Shape):
    """A tube about the curve (``radius`` cos t, t ``pitch`` / 2π, ``radius`` sin t) for |t| ≤ π ``turns``, axis y.

    The nearest point of the curve is found by Newton's method from the one on the unrolled cylinder. How it moves with
    the point does not count for gradients, as the distance to the nearest point of a curve does not change along it.
    """

    radius: Scalar
    pitch: Scalar
    turns: Scalar
    tube_radius: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        end = jnp.pi * self.turns
        places = (lax.stop_gradient(self._nearest(p)), end, -end)
        return functools.reduce(jnp.minimum, (self._to(p, t) for t in places)) - self.tube_radius

    def _to(self, p: Point, t: Distance | Scalar) -> Distance:
        rise = self.pitch / (2 * jnp.pi)
        return length(p.x - self.radius * jnp.cos(t), p.y - rise * t, p.z - self.radius * jnp.sin(t))

    def _nearest(self, p: Point) -> Distance:
        rise, around, end = self.pitch / (2 * jnp.pi), length(p.x, p.z), jnp.pi * self.turns
        turn = jnp.arctan2(p.z, p.x)
        first, last = jnp.ceil((-end - turn) / (2 * jnp.pi)), jnp.floor((end - turn) / (2 * jnp.pi))
        t = turn + 2 * jnp.pi * jnp.clip(jnp.round((p.y / rise - turn) / (2 * jnp.pi)), first, last)
        for _ in range(6):
            slope = self.radius * around * jnp.sin(t - turn) - rise * (p.y - rise * t)
            steepness = self.radius * around * jnp.cos(t - turn) + rise * rise
            t = t - jnp.clip(slope / jnp.maximum(steepness, rise * rise), -0.5, 0.5)
        return jnp.clip(t, -end, end)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.tube_radius + margin
        across = self.radius + reach
        return Box.around(across, self.pitch * self.turns / 2 + reach, across)


def capsule(start: Vector, end: Vector, radius: Scalar) -> Tube:
    """All within ``radius`` voxels of the line from ``start`` to ``end`` (x, y, z). A true distance."""
    radius = number("capsule", "radius", radius, above=0)
    ends = [vector("capsule", n, v) for n, v in (("start", start), ("end", end))]
    return Tube(jnp.stack(ends), jnp.full(2, radius, jnp.float32))


def round_cone(start: Vector, end: Vector, first_radius: Scalar, second_radius: Scalar) -> Tube:
    """All balls from one at ``start`` to one at ``end``, whose radii are given in voxels. True outside."""
    radii = [
        number("round_cone", n, v, least=0)
        for n, v in (("first_radius", first_radius), ("second_radius", second_radius))
    ]
    ends = [vector("round_cone", n, v) for n, v in (("start", start), ("end", end))]
    return Tube(jnp.stack(ends), jnp.stack([jnp.asarray(r, jnp.float32) for r in radii]))


def tube(curve: Float[Array, "n 3"], radius: Scalar | Float[Array, " n"]) -> Tube:
    """A tube along a polyline of n points (n, 3), its ends round; one radius, or one a point (voxels).

    True outside, a bound inside. All segments are one loop, so that hundreds compile as fast as two.
    """
    curve = points("tube", "curve", curve, size=3, least=2)
    if not isinstance(radius, list | tuple) and np.ndim(radius) == 0:
        return Tube(curve, jnp.full(len(curve), number("tube", "radius", radius, above=0), jnp.float32))
    return Tube(curve, vector("tube", "radius", radius, size=len(curve), least=0))


def bezier(control: Float[Array, "k 3"], number_of_points: int = 17) -> Float[Array, "n 3"]:
    """Points of the Bézier curve of ``control`` points (k, 3), evenly in its parameter: a curve for `tube`."""
    control = points("bezier", "control", control, size=3, least=2)
    steps = count("bezier", "number_of_points", number_of_points, least=2)
    t, order = np.linspace(0, 1, steps)[:, None], len(control) - 1
    powers, ways = np.arange(order + 1), np.array([math.comb(order, k) for k in range(order + 1)])
    weights = ways * t**powers * (1 - t) ** (order - powers)
    return jnp.asarray(weights, jnp.float32) @ control


def helix(radius: Scalar, pitch: Scalar, turns: Scalar, tube_radius: Scalar, axis: Axis = "y") -> Shape:
    """A coil about ``axis``: radius of its curve, rise a turn, number of turns, radius of its tube (voxels).

    A true distance but near its axis, where the nearest turn along the axis need not be the nearest.
    """
    given = (("radius", radius), ("pitch", pitch), ("turns", turns), ("tube_radius", tube_radius))
    return stood(Helix(*(number("helix", n, v, above=0) for n, v in given)), "y", axis)


def cylinder(radius: Scalar, height: Scalar, axis: Axis = "y") -> Shape:
    """A cylinder about ``axis``, centred: ``radius`` and ``height`` in voxels. A true distance."""
    radius = number("cylinder", "radius", radius, above=0)
    section = Rectangle(radius, number("cylinder", "height", height, above=0) / 2)
    return stood(Revolved(section, 0.0), "y", axis)


def capped_cone(bottom: Scalar, top: Scalar, height: Scalar, axis: Axis = "y") -> Shape:
    """A cone without its tip about ``axis``, centred: radii at its lower and upper end, voxels. A true distance."""
    bottom, top = (number("capped_cone", n, v, least=0) for n, v in (("bottom", bottom), ("top", top)))
    half = number("capped_cone", "height", height, above=0) / 2
    corners = [[-bottom, -half], [bottom, -half], [top, half], [-top, half]]
    return stood(Revolved(Polygon(jnp.asarray(corners, jnp.float32)), 0.0), "y", axis)
