"""Random fields for `displace`: functions of points that a key decides, without end and without tables.

Corners and cells of a lattice are numbered by a hash of their coordinates and a seed, so that a field has as few
parameters as a sphere and costs the same everywhere.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

from fdif_jax.errors import FdifError
from fdif_jax.sdf.arguments import count, number
from fdif_jax.sdf.shape import Distance, Point, Scalar, length, node, static

# A seed is a float32, as all parameters are, and exact up to here.
_SEEDS = 2**24
_STEEPEST = math.sqrt(1.5)  # what Perlin's noise cannot exceed: gradients of length √2, half a diagonal away


@node
class Noise:
    """A random field of points, voxels: ``amplitude`` times a number, its features ``scale`` voxels apart.

    Attributes:
        seed: which one, a whole number as float32.
        scale: voxels between the corners of the coarsest lattice.
        amplitude: voxels.
        octaves: lattices, each twice as fine and half as high as the one before.
        kind: ``"perlin"`` (the number is -1 … 1), ``"turbulence"``, ``"ridge"`` (0 … 1) or ``"worley"`` (0 … √3).
    """

    seed: Scalar
    scale: Scalar
    amplitude: Scalar
    octaves: int = static()
    kind: str = static()

    @property
    def reach(self) -> Scalar:
        """How far the field can swell a shape, voxels."""
        return jnp.abs(self.amplitude) if self.kind == "perlin" else jnp.maximum(-self.amplitude, 0.0)

    def __call__(self, p: Point) -> Distance:
        """The field at ``p``, voxels, float32."""
        total, weights = jnp.float32(0), 0.0
        for octave in range(self.octaves):
            rate, weight = 2.0**octave / self.scale, 0.5**octave
            seed = jnp.asarray(self.seed, jnp.float32).astype(jnp.uint32) + np.uint32(
                octave * 0x9E3779B9 % 2**32
            )
            value = _FIELDS[self.kind](Point(*(jnp.asarray(c, jnp.float32) * rate for c in p)), seed)
            total, weights = total + weight * value, weights + weight
        return self.amplitude * total / weights


def _hash(x: Array, y: Array, z: Array, seed: UInt32[Array, ""]) -> UInt32[Array, "..."]:
    """32 random bits of whole coordinates. Source: Teschner et al. 2003 (primes), Wellons' lowbias32 (mixing)."""
    x, y, z = (c.astype(jnp.int32).astype(jnp.uint32) for c in (x, y, z))
    h = (x * np.uint32(73856093)) ^ (y * np.uint32(19349663)) ^ (z * np.uint32(83492791)) ^ seed
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = (h ^ (h >> shift)) * np.uint32(factor)
    return h ^ (h >> 16)


def _perlin(p: Point, seed: Array) -> Distance:
    """Source: Ken Perlin, "Improving noise", 2002: gradients to the edges of a cube, weights of the fifth degree."""
    cells = [jnp.floor(c) for c in p]
    within = [c - cell for c, cell in zip(p, cells, strict=True)]
    weights = [t * t * t * (t * (t * 6 - 15) + 10) for t in within]

    def slope(corner: tuple[int, ...]) -> Distance:
        x, y, z = (cell + i for cell, i in zip(cells, corner, strict=True))
        bits = _hash(x, y, z, seed) & 15
        along, across, up = (t - i for t, i in zip(within, corner, strict=True))
        u = jnp.where(bits < 8, along, across)
        v = jnp.where(bits < 4, across, jnp.where((bits == 12) | (bits == 14), along, up))
        return jnp.where(bits & 1, -u, u) + jnp.where(bits & 2, -v, v)

    values = [slope(corner) for corner in itertools.product((0, 1), repeat=3)]
    for weight in weights:  # x first: the corners' first half has x = 0
        half = len(values) // 2
        values = [low + weight * (high - low) for low, high in zip(values[:half], values[half:], strict=True)]
    return values[0] / _STEEPEST


def _worley(p: Point, seed: Array) -> Distance:
    """The distance to the nearest of random places, one a cell. Source: Steven Worley, 1996."""
    cells = [jnp.floor(c) for c in p]
    far = jnp.full(jnp.broadcast_shapes(*map(jnp.shape, p)), jnp.inf, jnp.float32)

    def nearer(d: Any, step: Array) -> tuple[Any, None]:
        x, y, z = (cell + s for cell, s in zip(cells, step, strict=True))
        bits = [_hash(x, y, z, seed + np.uint32(i)) >> 8 for i in range(3)]
        places = [c + b.astype(jnp.float32) / 2**24 for c, b in zip((x, y, z), bits, strict=True)]
        return jnp.minimum(d, length(*(c - place for c, place in zip(p, places, strict=True)))), None

    steps = jnp.asarray(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))
    return lax.scan(nearer, far, steps)[0]


_FIELDS = {
    "perlin": _perlin,
    "turbulence": lambda p, seed: jnp.abs(_perlin(p, seed)),
    "ridge": lambda p, seed: jnp.square(1 - jnp.abs(_perlin(p, seed))),
    "worley": _worley,
}


def perlin(key: jax.Array, scale: Scalar, amplitude: Scalar = 1.0, octaves: int = 1) -> Noise:
    """Perlin's noise: soft hills and hollows about ``scale`` voxels wide, within ± ``amplitude`` voxels.

    Args:
        key: decides which.
        scale: voxels between the corners of its lattice.
        amplitude: voxels; what is added to a distance carves where it is positive.
        octaves: how many fields, each twice as fine and half as high, are summed.
    """
    return _noise("perlin", key, scale, amplitude, octaves)


def turbulence(key: jax.Array, scale: Scalar, amplitude: Scalar = 1.0, octaves: int = 4) -> Noise:
    """Absolute values of Perlin's noise, summed: billows with creases, 0 … ``amplitude`` voxels; else as `perlin`."""
    return _noise("turbulence", key, scale, amplitude, octaves)


def ridge(key: jax.Array, scale: Scalar, amplitude: Scalar = 1.0, octaves: int = 4) -> Noise:
    """(1 - |Perlin's noise|)², summed: sharp crests, 0 … ``amplitude`` voxels; else as `perlin`."""
    return _noise("ridge", key, scale, amplitude, octaves)


def worley(key: jax.Array, scale: Scalar, amplitude: Scalar = 1.0) -> Noise:
    """Cells: ``amplitude`` times the distance to the nearest of random places, one a cube of ``scale`` voxels."""
    return _noise("worley", key, scale, amplitude, 1)


def _noise(kind: str, key: Any, scale: Scalar, amplitude: Scalar, octaves: int) -> Noise:
    try:
        seed = jax.random.randint(key, (), 0, _SEEDS).astype(jnp.float32)
    except (TypeError, ValueError):
        raise FdifError(f"{kind}: key is {key!r}; it should be a key, as jax.random.key(0)") from None
    sizes = number(kind, "scale", scale, above=0), number(kind, "amplitude", amplitude)
    return Noise(seed, *sizes, count(kind, "octaves", octaves, least=1), kind)
