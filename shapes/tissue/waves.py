"""Cheap noise: waves along random directions that bend each other. A wave is a parabola by parts, not a sine."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.shape import Coordinate, Distance, Point, Scalar

STEEPEST = 8.0  # of a wave of period and height 1


def wave(t: Coordinate) -> Distance:
    """A wave of period 1 between -1 and 1, 0 at 0 and rising, about sin 2πt; continuous, and so is its slope."""
    t = jnp.asarray(t, jnp.float32)
    t = t - jnp.round(t)
    return 8 * t * (1 - 2 * jnp.abs(t))


def directions(key: jax.Array) -> Float[Array, "3 4"]:
    """Of three waves: random directions of length 1, across each other, and a phase each, 0 … 1."""
    turn_key, phase_key = jax.random.split(key)
    frame, _ = jnp.linalg.qr(jax.random.normal(turn_key, (3, 3)))
    return jnp.concatenate([frame, jax.random.uniform(phase_key, (3, 1))], axis=1)


def turned(p: Point, frame: Float[Array, "3 4"], rate: Scalar) -> Point:
    """Coordinates along the directions of a frame, times ``rate``, plus its phases."""
    return Point(*((f[0] * p.x + f[1] * p.y + f[2] * p.z) * rate + f[3] for f in frame))


def warped(q: Point, amount: Scalar) -> Point:
    """Each coordinate pushed by ``amount`` times a wave of half the rate along the next one."""
    return Point(*(c + amount * wave(0.5 * other) for c, other in zip(q, (q.y, q.z, q.x), strict=True)))


def maze(q: Point) -> Distance:
    """Schoen's gyroid of period 1, of parabolas: zero on a surface that winds through all of space, -1.5 … 1.5."""
    here, ahead = [wave(c) for c in q], [wave(c + 0.25) for c in q]
    return here[0] * ahead[1] + here[1] * ahead[2] + here[2] * ahead[0]


def bumps(q: Point) -> Distance:
    """Hills and hollows of period 1, -1 … 1: the product of a wave along each coordinate."""
    return wave(q.x) * wave(q.y) * wave(q.z)
