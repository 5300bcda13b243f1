"""Mappers: distance to intensity, 0 … 128. Sources: FDIF (arXiv 2603.23199); contour: AVS-DB (arXiv 2401.03665)."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from fdif_jax.sdf.shape import Distance
from fdif_jax.vocabulary.vocabulary import Mapper

TOP = 128.0


def _inside(function: Callable[[Distance], Distance]) -> Callable[[Distance], Distance]:
    """Zero outside the surface."""
    return lambda d: jnp.where(d > 0, 0.0, function(d))


def _inverse_cube() -> Mapper:
    def function(d: Distance) -> Distance:
        magnitude = jnp.abs(d)
        return TOP / (magnitude * magnitude * magnitude + 1)

    def tail(negligible: float) -> float:
        return max(0.0, TOP / negligible - 1) ** (1 / 3)

    return Mapper("inverse_cube", function, tail, "128 / (|d|³ + 1)")


def _exponential(base: float) -> Mapper:
    rate = math.log(base)
    return Mapper(
        f"exponential_base_{base}",
        _inside(lambda d: TOP * jnp.exp(rate * jnp.minimum(d, 0.0))),
        formula=f"128 · {base}^d inside",
    )


def _linear(slope: float) -> Mapper:
    return Mapper(
        f"linear_slope_{slope}",
        _inside(lambda d: jnp.clip(TOP + slope * d, 0.0, TOP)),
        formula=f"clip(128 + {slope} d) inside",
    )


def _floor(width: float) -> Mapper:
    return Mapper(
        f"floor_width_{width}",
        _inside(lambda d: jnp.clip(10 * jnp.ceil(d / width) + TOP, 0.0, TOP)),
        formula=f"clip(10 ⌈d / {width}⌉ + 128) inside",
    )


def _modular(width: float, modulus: int) -> Mapper:
    def function(d: Distance) -> Distance:
        step = -jnp.floor(-d / width) + (modulus - 1)
        # floor-mod by multiplication: `mod` costs nine times as much on a CPU.
        rest = step - modulus * jnp.floor(step * (1 / modulus) + 1e-4)
        return rest * (TOP / (modulus - 1))

    return Mapper(
        f"modular_{modulus}",
        _inside(function),
        formula=f"128/{modulus - 1} · mod(⌈d/{width}⌉ + {modulus - 1}, {modulus}) inside",
    )


def _sinusoidal(wavelength: float) -> Mapper:
    return Mapper(
        f"sinusoidal_wavelength_{wavelength}",
        _inside(lambda d: 64 * (jnp.cos((2 * math.pi / wavelength) * d) + 1)),
        formula=f"64 (cos(2πd / {wavelength}) + 1) inside",
    )


def _contour(width: float) -> Mapper:
    """A line along the surface, nothing elsewhere; why it is 3 wide for AVS-DB is told at `avs_db.Stack`."""
    return Mapper(
        "contour",
        lambda d: jnp.where((d > -width) & (d <= 0), TOP, 0.0),
        formula=f"128 where -{width:g} < d ≤ 0",
    )


MAPPERS = (
    _inverse_cube(),
    _exponential(1.5),
    _exponential(2.0),
    _linear(10.0),
    _linear(20.0),
    _floor(0.5),
    _floor(1.0),
    _modular(1.0, 5),
    _modular(0.5, 10),
    _sinusoidal(1.0),
    _sinusoidal(3.0),
    _contour(3.0),
)
