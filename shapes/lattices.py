"""Lattices: surfaces without end that fill space evenly, as walls or as solids.

Source of the formulas: the nodal approximations of triply periodic minimal surfaces (Schwarz, Schoen, Neovius).
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from fdif_jax.sdf.arguments import number
from fdif_jax.sdf.shape import Coordinate, Distance, Point, Scalar, Shape, node, static

# Each is zero on its surface; sines and cosines of x, y, z, and the greatest slope where a period is 2π.
_Field = Callable[..., Distance]
_FIELDS: dict[str, tuple[_Field, float]] = {
    "gyroid": (lambda sx, sy, sz, cx, cy, cz: sx * cy + sy * cz + sz * cx, math.sqrt(3)),
    "schwarz_p": (lambda sx, sy, sz, cx, cy, cz: cx + cy + cz, math.sqrt(3)),
    "schwarz_d": (
        lambda sx, sy, sz, cx, cy, cz: sz * (sx * sy + cx * cy) + cz * (sx * cy + cx * sy),
        math.sqrt(3),
    ),
    "neovius": (lambda sx, sy, sz, cx, cy, cz: 3 * (cx + cy + cz) + 4 * cx * cy * cz, 7.0),
}


@node
class Lattice(Shape):
    """One of the lattices: walls of ``thickness`` about its surface; of ``thickness`` None, what lies on one side."""

    period: Scalar
    thickness: Scalar | None
    kind: str = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        field, steepest = _FIELDS[self.kind]
        rate = 2 * jnp.pi / self.period
        phases: list[Coordinate] = [rate * c for c in p]
        value = field(*map(jnp.sin, phases), *map(jnp.cos, phases)) / (rate * steepest)
        return value if self.thickness is None else jnp.abs(value) - self.thickness / 2


def gyroid(period: Scalar, thickness: Scalar | None = None) -> Lattice:
    """Schoen's gyroid, of ``period`` voxels: walls about ``thickness`` thick, or (None) a labyrinth.

    A bound, divided by its greatest slope: walls are ``thickness`` thick where it is steepest, elsewhere thicker. Like
    all lattices without end: cut it by ``lattice & shape``.
    """
    return _lattice("gyroid", period, thickness)


def schwarz_p(period: Scalar, thickness: Scalar | None = None) -> Lattice:
    """Schwarz' P surface, a cube of wide pipes a period; arguments and distance as `gyroid`'s."""
    return _lattice("schwarz_p", period, thickness)


def schwarz_d(period: Scalar, thickness: Scalar | None = None) -> Lattice:
    """Schwarz' D surface, that of diamond; arguments and distance as `gyroid`'s."""
    return _lattice("schwarz_d", period, thickness)


def neovius(period: Scalar, thickness: Scalar | None = None) -> Lattice:
    """Neovius' surface, chambers with twelve necks; arguments and distance as `gyroid`'s."""
    return _lattice("neovius", period, thickness)


def _lattice(kind: str, period: Scalar, thickness: Scalar | None) -> Lattice:
    if thickness is not None:
        thickness = number(kind, "thickness", thickness, above=0)
    return Lattice(number(kind, "period", period, above=0), thickness, kind)
