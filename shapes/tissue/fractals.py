"""Fractals: a sponge and a bulb, by estimates of their distance."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.arguments import count, number
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, box_distance, length, node, static

_POWER = 8  # of the bulb: three doublings of its angles
_BULB = 1.25  # the bulb lies within a ball of this radius


@node
class Sponge(Shape):
    """A cube of half edge ``size`` with square holes along all axes, again in each of its 27 parts, and so on.

    ``holes`` ``(levels,)`` are widths of holes over the edges of the cubes that they go through.
    Source: Menger, 1926; Inigo Quilez, "Menger fractal".
    """

    size: Scalar
    holes: Float[Array, " levels"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        d = box_distance([jnp.abs(c) - self.size for c in p])
        edge = 2 * self.size
        for level in range(self.holes.shape[0]):
            x, y, z = (jnp.abs(c - edge * jnp.round(c / edge)) for c in p)
            across = jnp.minimum(jnp.minimum(jnp.maximum(x, y), jnp.maximum(y, z)), jnp.maximum(z, x))
            d = jnp.maximum(d, self.holes[level] * edge / 2 - across)
            edge = edge / 3
        return d

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.size + margin
        return Box.around(reach, reach, reach)


@node
class Bulb(Shape):
    """Points p that stay near under z → z⁸ + p in spherical coordinates, both angles shifted by ``phase`` radians.

    The surface is where |z| = 1 after ``iterations``. The distance is estimated: |z| log |z| over a running
    derivative, halved. Source: White and Nylander, 2009; Inigo Quilez, "Mandelbulb".
    """

    size: Scalar
    phase: Float[Array, "2"]
    iterations: int = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        unit = self.size / _BULB
        start = Point(*(jnp.asarray(c, jnp.float32) / unit for c in p))
        z, away, slope = start, length(*start), jnp.float32(1)
        for _ in range(self.iterations):
            gone = away > 2.0
            raised = _power(z, away, self.phase)
            steeper = _POWER * jnp.minimum(away, 2.0) ** (_POWER - 1) * slope + 1
            moved = [jnp.where(gone, old, new + c) for old, new, c in zip(z, raised, start, strict=True)]
            slope = jnp.where(gone, slope, steeper)
            z = Point(*moved)
            away = length(*z)
        # r log r falls up to 1/e; deeper inside it keeps that value, or it would rise to 0 again.
        far = jnp.maximum(away, jnp.exp(-1.0))
        return jnp.maximum(0.5 * unit * far * jnp.log(far) / slope, length(*p) - self.size)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.size + margin
        return Box.around(reach, reach, reach)


def _power(z: Point, away: Distance, phase: Float[Array, "2"]) -> list[Distance]:
    """z to the eighth power: its length to that power, its angles eight times as large."""
    around = jnp.maximum(length(z.x, z.y), 1e-6)
    steep = jnp.maximum(away, 1e-6)
    pairs = []
    for cos, sin, shift in ((z.z / steep, around / steep, phase[0]), (z.x / around, z.y / around, phase[1])):
        for _ in range(3):
            cos, sin = cos * cos - sin * sin, 2 * cos * sin
        c, s = jnp.cos(shift), jnp.sin(shift)
        pairs.append((c * cos - s * sin, s * cos + c * sin))
    (up, out), (east, north) = pairs
    far = jnp.minimum(away, 2.0) ** _POWER
    return [far * out * east, far * out * north, far * up]


def menger_sponge(key: jax.Array, size: Scalar, *, levels: int = 3, hole: Scalar = 1 / 3) -> Sponge:
    """A sponge after Menger: a cube with holes in all faces, in all parts of it, and in all parts of these.

    Args:
        key: decides which.
        size: half its edge, voxels.
        levels: sizes of holes.
        hole: mean width of a hole over the edge of the cube that it goes through; Menger's is 1/3.

    Returns:
        A shape. A bound.
    """
    hole = number("menger_sponge", "hole", hole, above=0)
    shape = (count("menger_sponge", "levels", levels, least=1),)
    widths = hole * jax.random.uniform(key, shape, minval=0.8, maxval=1.2)
    return Sponge(number("menger_sponge", "size", size, above=0), widths)


def mandelbulb(key: jax.Array, size: Scalar, *, iterations: int = 3, turn: Scalar = 0.6) -> Bulb:
    """A bulb after Mandelbrot's set: round, and covered with bulbs that are covered with bulbs.

    Args:
        key: decides which.
        size: radius of a ball that holds it, voxels.
        iterations: how many generations of bulbs.
        turn: how far each generation may be turned at most, radians.

    Returns:
        A shape. An estimate: its sign is right; near the z axis, where angles turn fast, it grows up to 25 times as
        fast as a distance.
    """
    steps = count("mandelbulb", "iterations", iterations, least=1)
    turn = number("mandelbulb", "turn", turn, least=0)
    phase = turn * jax.random.uniform(key, (2,), minval=-1.0)
    return Bulb(number("mandelbulb", "size", size, above=0), phase, steps)
