"""What a family of shapes is like, found by drawing members: numbers, sign, slopes, sizes, and what a voxel costs.

A signed distance has a gradient of length 1 wherever it has one. Where it is shorter the function is a bound: it says
at most how far the surface is, and everything that steps along it is right but slower. Where it is longer (a bend, a
large displacement) the function claims more room than there is.
"""

import statistics
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fdif_jax.errors import FdifError
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point, Shape
from fdif_jax.vocabulary.authoring import place_of
from fdif_jax.vocabulary.vocabulary import Displacement, Family, Mapper, Vocabulary

_FEW, _COARSE = 4, 12  # members, and points an axis, of the check that every use of a file begins with
_POINTS = 2048  # at which slopes are taken, a member
_TILE = Grid(12, 24, 48)  # what the cost is taken of: about what a renderer evaluates at once
_CALLS, _ROUNDS = 20, 5
_NEARLY = 0.02  # slopes this close to 1 are those of a distance, but for rounding
_MOSTLY = 0.99  # of the points


class Findings(NamedTuple):
    """What members of a family, each centred in a grid, are like."""

    family: Family  # which
    members: int  # how many were drawn
    undefined: int  # members that are NaN or infinite somewhere
    empty: int  # members with no voxel inside
    full: int  # members with no voxel outside
    cut: int  # members that reach the grid's faces
    escaped: int  # members with a voxel inside that is beyond their own bounds
    unbounded: int  # members whose bounds rule nothing out
    # least, median and greatest diameter of a ball with a member's volume, voxels; of those not empty
    diameters: tuple[float, float, float]
    slope: float  # greatest length of the distance's gradient
    true: float  # share of points where it is 1, but for rounding
    nanoseconds: float  # time of one member at a voxel
    spheres: float  # that time over the time of a sphere

    @property
    def kind(self) -> str:
        """``"distance"``, ``"bound"`` (never more than the distance), or ``"worse"`` (it may be more)."""
        if self.slope > 1 + _NEARLY:
            return "worse"
        return "distance" if self.true >= _MOSTLY else "bound"

    @property
    def mistakes(self) -> list[str]:
        """What must be mended, a sentence each."""
        none = f"none of {self.members} members has a voxel inside; a distance is negative inside"
        found = {
            "are NaN or infinite somewhere": self.undefined,
            "are negative everywhere; a distance is positive outside": self.full,
            "reach beyond the box of their bounds(), and would be drawn with parts cut off": self.escaped,
        }
        return [*self._counted(found), *[none] * (self.empty == self.members)]

    @property
    def remarks(self) -> list[str]:
        """What may be meant, but costs something, a sentence each."""
        steep = f"distances grow up to {self.slope:.2g} times as fast as they may"
        found = {
            "have no voxel inside": self.empty if self.empty < self.members else 0,
            "are cut by the grid's faces even when they lie in its middle": self.cut,
            "have no bounds, so that each is computed on the whole grid; give the shape a bounds()": self.unbounded,
        }
        return [*self._counted(found), *[steep] * (self.kind == "worse")]

    def _counted(self, found: Mapping[str, int]) -> list[str]:
        return [f"{count} of {self.members} members {what}" for what, count in found.items() if count]


def examine(family: Family, grid: Grid, sphere: Shape, members: int = 48, seed: int = 0) -> Findings:
    """Draw so many members of a family, sized for a grid and centred in it, and measure them.

    Their costs are compared with the ``sphere``'s.
    """
    half = jnp.asarray(grid.edges, jnp.float32) / 2

    def measured(key: jax.Array) -> tuple[dict[str, Array], Array, Array, Array]:
        shape_key, point_key = jax.random.split(key)
        shape, p = family.sample(shape_key, grid), grid.points()
        d = jnp.broadcast_to(shape(p), grid)
        box = shape.bounds()
        coordinates = zip(p, box.lower, box.upper, strict=True)
        beyond = sum((jnp.abs(c - (a + b) / 2) > (b - a) / 2).astype(jnp.int32) for c, a, b in coordinates)
        inside = d < 0
        faces = [inside[0], inside[-1], inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]]
        at = jax.random.uniform(point_key, (_POINTS, 3), minval=-half, maxval=half)
        gradient = jax.vmap(jax.grad(lambda x: jnp.sum(shape(Point(*x)))))(at)
        slopes = jnp.linalg.norm(gradient, axis=1)
        bounded = jnp.isfinite(box.lower).all() & jnp.isfinite(box.upper).all()
        flags = {
            "undefined": ~(jnp.isfinite(d).all() & jnp.isfinite(slopes).all()),
            "empty": ~inside.any(),
            "full": inside.all(),
            "cut": jnp.stack([face.any() for face in faces]).any() & ~inside.all(),
            "escaped": bounded & (inside & (beyond > 0)).any(),
            "unbounded": ~bounded,
        }
        return flags, inside.sum(), jnp.nanmax(slopes), jnp.nanmean(jnp.abs(slopes - 1) < _NEARLY)

    mapped = jax.jit(lambda keys: lax.map(measured, keys))(jax.random.split(jax.random.key(seed), members))
    flags, volumes, slopes, true = jax.tree.map(np.asarray, mapped)
    volumes = np.sort(volumes[volumes > 0])
    sizes = np.cbrt(6 / np.pi * volumes[[0, len(volumes) // 2, -1]]) if volumes.size else np.zeros(3)
    # Drawn as one program: operation by operation takes longer to compile than the member to check.
    member = jax.jit(lambda key: family.sample(key, grid))(jax.random.key(seed))
    cost, unit = _cost(member), _cost(sphere)
    return Findings(
        family,
        members,
        **{name: int(flag.sum()) for name, flag in flags.items()},
        diameters=(float(sizes[0]), float(sizes[1]), float(sizes[2])),
        slope=float(slopes.max()),
        true=float(true.mean()),
        nanoseconds=cost,
        spheres=cost / unit,
    )


@jax.jit
def _tiles(shape: Shape) -> Array:
    """A shape's distances on some tiles, each elsewhere, or they would be computed once."""

    def tile(i: Array, total: Array) -> Array:
        x, y, z = _TILE.points()
        return total + jnp.sum(jnp.broadcast_to(shape(Point(x + i, y, z)), _TILE))

    return lax.fori_loop(0, _CALLS, tile, jnp.float32(0))


def _cost(shape: Shape) -> float:
    """Nanoseconds of a shape's distance at a voxel, on a tile that fits a cache; median of some rounds."""
    _tiles(shape).block_until_ready()
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        _tiles(shape).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / (_CALLS * float(np.prod(_TILE))) * 1e9


def check_numbers(vocabulary: Vocabulary, grid: Grid) -> None:
    """Compute a few members of every family on a coarse mesh of the grid; FdifError if one is NaN or infinite."""
    axes = (jnp.linspace(-edge / 2, edge / 2, _COARSE) for edge in grid.edges)
    mesh = jnp.meshgrid(*axes, indexing="ij")
    for family in vocabulary.families:

        def undefined(key: jax.Array, family: Family = family) -> Array:
            d = jnp.broadcast_to(family.sample(key, grid)(Point(*mesh)), mesh[0].shape)
            return jnp.sum(~jnp.isfinite(d))

        keys = jax.random.split(jax.random.key(0), _FEW)
        worst = int(jnp.max(jax.jit(lambda keys, f=undefined: lax.map(f, keys))(keys)))
        if worst:
            raise FdifError(
                f"{place_of(family)}: the distance of {family.name!r} is NaN or infinite at {worst} of "
                f"{mesh[0].size} points"
            )


def check_displacement(displacement: Displacement, grid: Grid) -> tuple[float, float]:
    """Least and greatest value on a grid, voxels; FdifError if it is NaN or infinite."""
    highest = Point(*map(float, grid.highest))
    field = jax.jit(lambda p: displacement.field(p, highest))(grid.points())
    if not np.isfinite(field).all():
        raise FdifError(
            f"{place_of(displacement)}: displacement {displacement.name!r} is NaN or infinite somewhere"
        )
    return float(np.min(field)), float(np.max(field))


def check_mapper(mapper: Mapper) -> tuple[float, float]:
    """Least and greatest intensity within 96 voxels; FdifError if it is NaN, infinite, or beyond 0 … 128."""
    intensity = np.asarray(jax.jit(mapper.function)(jnp.linspace(-96.0, 96.0, 4097, dtype=jnp.float32)))
    low, high = float(intensity.min()), float(intensity.max())
    if not (low >= 0 and high <= 128):  # NaN is neither
        raise FdifError(
            f"{place_of(mapper)}: mapper {mapper.name!r} goes from {low:g} to {high:g}; intensities are from 0 to 128"
        )
    return low, high
