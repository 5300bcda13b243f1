"""Displacements: fields of world coordinates that roughen surfaces.

Source: FDIF (arXiv 2603.23199). With X the greatest x and ``x' = x / max(x)`` (likewise y, z), each has an
amplitude ``A = a X`` and a scale ``k``. On an open mesh every sine runs over one axis only.
"""

from collections.abc import Callable

import jax.numpy as jnp

from fdif_jax.sdf.shape import Coordinate, Distance, Point
from fdif_jax.vocabulary.vocabulary import Displacement

Scaled = Callable[[Coordinate, Coordinate, Coordinate], Distance]


def _displacement(name: str, amplitude: float, k: float, function: Scaled, formula: str) -> Displacement:
    def field(p: Point, highest: Point) -> Distance:
        scaled = (k * (c / top) for c, top in zip(p, highest, strict=True))
        return amplitude * highest.x * function(*scaled)

    return Displacement(name, field, f"{amplitude:g} X · {formula.replace('k', f'{k:g} ')}")


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


_PERLIN = "(sin kx' sin ky' + sin kz')"
_RIDGE = "(|sin kx'| + |sin ky'| + |sin kz'|)"
_SHARPMAX = "max(|sin kx'|, |sin ky'|, |sin kz'|)"
_SAWTOOTH = "(2/π) Σ (kc' - floor(½ + kc')) over c = x, y, z"
_TURBULENCE = "(sin .1X cos .15Y + sin .2Y cos .25Z + sin .3Z cos .35X), (X, Y, Z) = k(x', y', z')"

DISPLACEMENTS = (
    _displacement("perlin_more_fine", 0.03, 50, _perlin, _PERLIN),
    _displacement("perlin_fine", 0.01, 30, _perlin, _PERLIN),
    _displacement("turbulence", 0.05, 30, _turbulence, _TURBULENCE),
    _displacement("ridge", 0.03, 30, _ridge, _RIDGE),
    _displacement("ridge_coarse", 0.05, 10, _ridge, _RIDGE),
    _displacement("sharpmax", 0.05, 20, _sharpmax, _SHARPMAX),
    _displacement("sharpmax_fine", 0.03, 40, _sharpmax, _SHARPMAX),
    _displacement("twisted_x", 0.04, 20, lambda x, y, z: jnp.abs(jnp.sin(x)) + 0 * (y + z), "|sin kx'|"),
    _displacement("sawtooth", 0.03, 15, _sawtooth, _SAWTOOTH),
    _displacement("sawtooth_fine", 0.02, 30, _sawtooth, _SAWTOOTH),
)
