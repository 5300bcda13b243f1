"""Affine matrices: applied to points, inverted, and made from angles."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.shape import Coordinate, Point, Scalar, length

Terms = list[tuple[Coordinate, Coordinate, Scalar]]


def move(matrix: Float[Array, "3 4"], p: Point) -> Point:
    """Apply an affine matrix to a point."""
    return joined(terms(matrix, p))


def terms(matrix: Float[Array, "3 4"], p: Point) -> Terms:
    """Of each coordinate of a moved point what varies along x and y, what along z, and what nowhere.

    On an open mesh these are few numbers, which a branch reads faster than three volumes.
    """
    return [(row[0] * p.x + row[1] * p.y, row[2] * p.z, row[3]) for row in matrix]


def joined(terms: Terms) -> Point:
    """The moved point; sums alone, which round alike whatever XLA fuses them with."""
    return Point(*(across + along + shift for across, along, shift in terms))


def invert(matrix: Float[Array, "3 4"]) -> Float[Array, "3 4"]:
    """The inverse of an affine matrix."""
    inverse = inverse3(matrix[:, :3])
    return jnp.concatenate([inverse, -inverse @ matrix[:, 3:]], axis=1)


def inverse3(m: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """The inverse of a 3×3 matrix by cofactors: plain arithmetic that fuses, where a solver would not."""
    a, b, c = m
    cofactors = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return cofactors / jnp.dot(a, jnp.cross(b, c))


def rotation(axis: tuple[Scalar, Scalar, Scalar] | Float[Array, "3"], angle: Scalar) -> Float[Array, "3 3"]:
    """The matrix of a turn by ``angle`` radians about ``axis`` (Rodrigues' formula)."""
    k = jnp.asarray(axis, jnp.float32)
    k = k / length(*k)
    cross = jnp.cross(jnp.eye(3), k)  # cross @ v = k × v
    return jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * (cross @ cross)


def between(start: Float[Array, "3"], end: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """The matrix of the shortest turn from one unit vector to another; from a vector to its opposite, a half turn.

    Source: Rodrigues' formula, with the axis start × end, its length the sine, and start · end the cosine.
    """
    cross, cos = jnp.cross(jnp.eye(3), jnp.cross(start, end)), jnp.dot(start, end)
    opposite = cos < -1 + 1e-6
    turn = jnp.eye(3) + cross + cross @ cross / jnp.where(opposite, 1.0, 1 + cos)
    # About any axis across: the coordinate axis that is farthest from the vector, less its part along it.
    across = jnp.eye(3)[jnp.argmin(jnp.abs(start))]
    across = across - jnp.dot(across, start) * start
    half_turn = 2 * jnp.outer(across, across) / jnp.dot(across, across) - jnp.eye(3)
    return jnp.where(opposite, half_turn, turn)


def turned(angles: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """The matrix Rz·Ry·Rx of turns by three angles (radians) about the axes x, y, z."""
    about_x, about_y, about_z = turns(angles)
    return about_z @ about_y @ about_x


def turns(angles: Float[Array, "3"]) -> list[Float[Array, "3 3"]]:
    """The matrices Rx, Ry, Rz of turns by three angles (radians), each about one axis."""
    (cx, cy, cz), (sx, sy, sz) = jnp.cos(angles), jnp.sin(angles)
    about_x = jnp.asarray([[1.0, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = jnp.asarray([[cy, 0, sy], [0, 1.0, 0], [-sy, 0, cy]])
    about_z = jnp.asarray([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1.0]])
    return [about_x, about_y, about_z]


def quaternion_rotation(turn: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """The rotation of the quaternion (1, turn/2), normalised; smooth everywhere, also at zero."""
    x, y, z = turn / 2
    n = 1 + x * x + y * y + z * z
    rows = [
        [1 + x * x - y * y - z * z, 2 * (x * y - z), 2 * (x * z + y)],
        [2 * (x * y + z), 1 - x * x + y * y - z * z, 2 * (y * z - x)],
        [2 * (x * z - y), 2 * (y * z + x), 1 - x * x - y * y + z * z],
    ]
    return jnp.array(rows) / n
