"""Displacements: fields of world coordinates that roughen surfaces.

Source: FDIF (arXiv 2603.23199). With X the greatest x and ``x' = x / max(x)`` (likewise y, z), each has an
amplitude ``A = a X`` and a scale ``k``. On an open mesh every sine runs over one axis only.
"""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp

from fdif_jax.sdf.shape import Coordinate, Distance, Point
from fdif_jax.vocabulary.vocabulary import USUAL, Displacement

Scaled = Callable[[Coordinate, Coordinate, Coordinate], Distance]


@dataclasses.dataclass(frozen=True)
class _Field:
    """A displacement's field; equal where its numbers are, also after pickling."""

    amplitude: float
    k: float
    function: Scaled

    def __call__(self, p: Point, highest: Point) -> Distance:
        scaled = (self.k * (c / top) for c, top in zip(p, highest, strict=True))
        return self.amplitude * highest.x * self.function(*scaled)


def _displacement(name: str, amplitude: float, k: float, of: tuple[Scaled, float, str]) -> Displacement:
    function, least, formula = of
    words = f"{amplitude:g} X · {formula.replace('k', f'{k:g} ')}"
    field = _Field(amplitude, k, function)
    return Displacement(name, field, words, abs(least) * amplitude * float(USUAL.highest.x))


def _perlin(x: Coordinate, y: Coordinate, z: Coordinate) -> Distance:
    return jnp.sin(x) * jnp.sin(y) + jnp.sin(z)


def _turbulence(x: Coordinate, y: Coordinate, z: Coordinate) -> Distance:
    return (
        jnp.sin(0.1 * x) * jnp.cos(0.15 * y)
        + jnp.sin(0.2 * y) * jnp.cos(0.25 * z)
        + jnp.sin(0.3 * z) * jnp.cos(0.35 * x)
    )


def _ridge(x: Coordinate, y: Coordinate, z: Coordinate) -> Distance:
    return jnp.abs(jnp.sin(x)) + jnp.abs(jnp.sin(y)) + jnp.abs(jnp.sin(z))


def _sharpmax(x: Coordinate, y: Coordinate, z: Coordinate) -> Distance:
    return jnp.maximum(jnp.maximum(jnp.abs(jnp.sin(x)), jnp.abs(jnp.sin(y))), jnp.abs(jnp.sin(z)))


def _sawtooth(x: Coordinate, y: Coordinate, z: Coordinate) -> Distance:
    def tooth(c: Coordinate) -> Distance:
        return c - jnp.floor(0.5 + c)

    return (2 / jnp.pi) * (tooth(x) + tooth(y) + tooth(z))


def _twisted(x: Coordinate, y: Coordinate, z: Coordinate) -> Distance:
    return jnp.abs(jnp.sin(x)) + 0 * (y + z)


# Of each its function, its least value (≤ 0), and its formula.
_PERLIN = (_perlin, -2.0, "(sin kx' sin ky' + sin kz')")
_RIDGE = (_ridge, 0.0, "(|sin kx'| + |sin ky'| + |sin kz'|)")
_SHARPMAX = (_sharpmax, 0.0, "max(|sin kx'|, |sin ky'|, |sin kz'|)")
_SAWTOOTH = (_sawtooth, -3 / math.pi, "(2/π) Σ (kc' - floor(½ + kc')) over c = x, y, z")
_TURBULENCE = (
    _turbulence,
    -3.0,
    "(sin .1X cos .15Y + sin .2Y cos .25Z + sin .3Z cos .35X), (X, Y, Z) = k(x', y', z')",
)
_TWISTED = (_twisted, 0.0, "|sin kx'|")

DISPLACEMENTS = (
    _displacement("perlin_more_fine", 0.03, 50, _PERLIN),
    _displacement("perlin_fine", 0.01, 30, _PERLIN),
    _displacement("turbulence", 0.05, 30, _TURBULENCE),
    _displacement("ridge", 0.03, 30, _RIDGE),
    _displacement("ridge_coarse", 0.05, 10, _RIDGE),
    _displacement("sharpmax", 0.05, 20, _SHARPMAX),
    _displacement("sharpmax_fine", 0.03, 40, _SHARPMAX),
    _displacement("twisted_x", 0.04, 20, _TWISTED),
    _displacement("sawtooth", 0.03, 15, _SAWTOOTH),
    _displacement("sawtooth_fine", 0.02, 30, _SAWTOOTH),
)
