"""Shapes given by samples: a signed distance on a grid is a shape like any formula.

- `Sampled` carries its grid as parameters: one shape, as a user makes it from a mask or a mesh.
- `Member` names one of many equally sized grids in a `Library`. Its only parameter is a number, so that a whole
  vocabulary of organs shares one structure, that is, one branch of a renderer.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

from fdif_jax.errors import FdifError
from fdif_jax.sdf.affine import inverse3, invert, move
from fdif_jax.sdf.shape import Box, Coordinate, Distance, Point, Scalar, Shape, length, node, static


@node
class Sampled(Shape):
    """A signed distance sampled on a grid; make it with `Sampled.of`.

    Between samples the distance is interpolated: as true as the samples, within what a trilinear form can follow.
    Outside the grid it is continued so that it stays continuous, positive and (where the voxels' axes are at right
    angles) a bound: with v ≥ 0 the distance at the nearest point of the grid and e the way to that point, √(v² + e²),
    or the distance to the box of the inside where that is greater. Source: the angle at the nearest point of a
    convex box is at least a right one.
    """

    # signed distance in local units, ``(D, H, W)``, positive on the grid's faces
    values: Float[Array, "D H W"]
    inverse: Float[Array, "3 4"]  # local point (x, y, z) → index (x, y, z), ``(3, 4)``
    lower: Float[Array, "3"]  # least x, y, z of the inside, local units, ``(3,)``
    upper: Float[Array, "3"]  # greatest x, y, z of the inside

    @classmethod
    def of(cls, values: Array | np.ndarray, inverse: Array | np.ndarray) -> "Sampled":
        """The shape of samples ``(D, H, W)``, any real dtype, with the box of its inside found from them.

        Make it anew after changing samples by hand: the box does not follow them.
        """
        samples, matrix = jnp.asarray(values, jnp.float32), jnp.asarray(inverse, jnp.float32)
        return cls(samples, matrix, *inside_box(samples, matrix))

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        box = Box(self.lower, self.upper)
        return _distance(jnp.ravel(self.values), self.values.shape, 0, self.inverse, box, p)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Box(self.lower - margin, self.upper + margin)


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """Many signed distances on grids of one size; equal only to itself, so that it can be part of a structure."""

    stack: Float[Array, "M D H W"]  # the grids ``(M, D, H, W)``, float16 or float32, local units
    inverse: Float[Array, "M 3 4"]  # local point (x, y, z) → index (x, y, z) of each, float32 ``(M, 3, 4)``
    lower: Float[Array, "M 3"]  # least x, y, z of the inside of each, float32 ``(M, 3)``
    upper: Float[Array, "M 3"]  # greatest x, y, z of the inside of each, float32 ``(M, 3)``
    names: tuple[str, ...]  # what each is called

    @classmethod
    def of(
        cls, stack: np.ndarray, inverse: np.ndarray, names: Sequence[str], dtype: type = np.float16
    ) -> "Library":
        """The library of these grids, kept as ``dtype``, with the boxes of the insides found from them.

        FdifError if there are more voxels than a 32-bit index can count.
        """
        if stack.size > np.iinfo(np.int32).max:
            raise FdifError(
                f"{len(names)} grids of {'x'.join(map(str, stack.shape[1:]))} voxels are more than a library can "
                f"hold ({np.iinfo(np.int32).max} voxels); use fewer members or a lower resolution"
            )
        # A library may be asked for first while a program is traced; it is a constant all the same.
        with jax.ensure_compile_time_eval():
            kept, matrices = jnp.asarray(stack, dtype), jnp.asarray(inverse, jnp.float32)
            boxes = lax.map(lambda of: inside_box(of[0].astype(jnp.float32), of[1]), (kept, matrices))
        return cls(kept, matrices, boxes.lower, boxes.upper, tuple(names))

    def member(self, name: str) -> "Member":
        """The member of this name; ValueError if there is none."""
        return Member(float(self.names.index(name)), self)


@node
class Member(Shape):
    """One grid of a library; the distance is that of a `Sampled` with the same samples."""

    # which one, counted from 0; a number as any parameter, so that a table's row can hold it
    index: Scalar | Int[Array, ""]
    library: Library = static()  # where it is kept

    @property
    def _which(self) -> Int[Array, ""]:
        return jnp.clip(jnp.round(jnp.asarray(self.index)).astype(jnp.int32), 0, len(self.library.names) - 1)

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        i, library = self._which, self.library
        size = library.stack.shape[1:]
        box = Box(library.lower[i], library.upper[i])
        return _distance(jnp.ravel(library.stack), size, i * math.prod(size), library.inverse[i], box, p)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        i = self._which
        return Box(self.library.lower[i] - margin, self.library.upper[i] + margin)

    def alone(self) -> Sampled:
        """The same shape with samples of its own."""
        i, library = self._which, self.library
        return Sampled(
            library.stack[i].astype(jnp.float32), library.inverse[i], library.lower[i], library.upper[i]
        )


@jax.jit
def inside_box(values: Array | np.ndarray, inverse: Array | np.ndarray) -> Box:
    """A box that holds every point where the interpolated ``values`` are negative or zero.

    No point can lie deeper inside than it is from the far side of a plane that touches the shape; hence the plane
    x = max(x - d) over all samples d has nothing beyond it, and as a linear function it stays below d between them.
    """
    depth, height, width = values.shape
    z, y, x = (jnp.arange(n, dtype=jnp.float32) for n in (depth, height, width))
    centres = move(invert(jnp.asarray(inverse)), Point(x, y[:, None], z[:, None, None]))
    lower = jnp.stack([jnp.min(c + values) for c in centres])
    upper = jnp.stack([jnp.max(c - values) for c in centres])
    return Box(lower, upper)


def _distance(
    flat: Num[Array, " N"],
    size: tuple[int, ...],
    start: Int[Array, ""] | int,
    inverse: Float[Array, "3 4"],
    box: Box,
    p: Point,
) -> Distance:
    """Signed distance from the grid of ``size`` (D, H, W) at position ``start`` of ``flat``."""
    index = move(inverse, p)
    value = _trilinear(flat, size, start, index)
    edges = jnp.sqrt(jnp.sum(jnp.square(inverse3(inverse[:, :3])), axis=0))
    beyond = [e * (c - _clamp(c, n)) for e, c, n in zip(edges, index, size[::-1], strict=True)]
    outside = (beyond[0] != 0) | (beyond[1] != 0) | (beyond[2] != 0)
    continued = jnp.where(outside, length(jnp.maximum(value, 0.0), *beyond), value)
    apart = [jnp.maximum(jnp.maximum(a - c, c - b), 0.0) for c, a, b in zip(p, *box, strict=True)]
    away = (apart[0] > 0) | (apart[1] > 0) | (apart[2] > 0)
    return jnp.where(away, jnp.maximum(continued, length(*apart)), continued)


def _trilinear(
    flat: Num[Array, " N"], size: tuple[int, ...], start: Int[Array, ""] | int, index: Point
) -> Distance:
    """The value at fractional indices into the grid of ``size`` at position ``start`` of ``flat``.

    Linear along each axis, clamped at the edges, and differentiable in values and indices; at a voxel's centre the
    slope is that of the cell above it.
    """
    # Eight gathers from a flat array: 8 ns a voxel on one core, in float16 and float32 alike. Gathers of a 2×2×2
    # window took 21, of a packed row of eight corners 24, and of three indices an axis 14.
    depth, height, width = size
    x, y, z = (_split(c, n) for c, n in zip(index, (width, height, depth), strict=True))
    base = start + (z[0] * height + y[0]) * width + x[0]
    steps = [step if n > 1 else 0 for step, n in ((height * width, depth), (width, height), (1, width))]

    def sample(offset: int) -> Distance:
        return flat.at[base + offset].get(mode="clip").astype(jnp.float32)

    def between(axis: int, offset: int) -> Distance:
        if axis == 3:
            return sample(offset)
        low, high = between(axis + 1, offset), between(axis + 1, offset + steps[axis])
        return low + (z, y, x)[axis][1] * (high - low)

    return between(0, 0)


def _split(c: Coordinate, n: int) -> tuple[Int[Array, "..."], Distance]:
    """The cell of an axis of ``n`` samples that holds ``c``, and how far into it."""
    c = _clamp(c, n)
    cell = jnp.minimum(jnp.floor(c), max(n - 2, 0))
    return cell.astype(jnp.int32), c - cell


def _clamp(c: Coordinate, n: int) -> Distance:
    """``c`` within 0 … n-1; unlike `jnp.clip`, with the slope of the inside at both ends."""
    c = jnp.asarray(c, jnp.float32)
    return jnp.where(c < 0, 0.0, jnp.where(c > n - 1, float(n - 1), c))
