"""Points, boxes, and the voxel grid: which point each voxel of a volume stands for."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

Coordinate = Num[Array | np.ndarray, "..."] | float | int
Distance = Float[Array | np.ndarray, "..."]
Scalar = Float[Array, ""] | float


class Point(NamedTuple):
    """Coordinates in voxels; three arrays that broadcast against each other."""

    x: Coordinate
    y: Coordinate
    z: Coordinate


class Box(NamedTuple):
    """An axis-aligned box; ``lower`` and ``upper`` are float32 ``(3,)`` in x, y, z order, in voxels."""

    lower: Float[Array | np.ndarray, "3"]
    upper: Float[Array | np.ndarray, "3"]

    @classmethod
    def around(cls, x: Coordinate, y: Coordinate, z: Coordinate) -> "Box":
        """The box of these half extents, centred on the origin."""
        half = jnp.stack([jnp.asarray(v, jnp.float32) for v in (x, y, z)])
        return cls(-half, half)

    @classmethod
    def everywhere(cls) -> "Box":
        """The box that rules nothing out."""
        return cls.around(jnp.inf, jnp.inf, jnp.inf)

    def mapped(self, matrix: Float[Array, "3 4"]) -> "Box":
        """The tightest box around this box moved by the affine ``matrix``; unbounded stays unbounded."""
        centre, half = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        bounded = jnp.all(jnp.isfinite(half))
        centre, half = jnp.where(bounded, centre, 0.0), jnp.where(bounded, half, 1.0)
        moved = matrix[:, :3] @ centre + matrix[:, 3]
        reach = jnp.where(bounded, jnp.abs(matrix[:, :3]) @ half, jnp.inf)
        return Box(moved - reach, moved + reach)


class Grid(NamedTuple):
    """The shape ``(depth, height, width)`` of a volume indexed ``[z, y, x]``.

    Along an edge of n voxels the coordinate of voxel i is ``i - n // 2`` (96 voxels: -48 … 47).
    """

    depth: int
    height: int
    width: int

    @property
    def edges(self) -> Point:
        """Numbers of voxels along x, y, z."""
        return Point(self.width, self.height, self.depth)

    @property
    def highest(self) -> Point:
        """The greatest coordinate along x, y, z."""
        return Point(*(n - 1 - n // 2 for n in self.edges))

    def points(self) -> Point:
        """The open mesh of all voxels: x ``(1,1,W)``, y ``(1,H,1)``, z ``(D,1,1)``, float32."""
        return self.tile((0, 0, 0), self)

    def tile(self, start: tuple, size: tuple[int, int, int]) -> Point:
        """The open mesh of the ``size`` (d, h, w) voxels from index ``start`` (z, y, x; may be traced)."""
        z, y, x = (
            (jnp.arange(n, dtype=jnp.int32) + s - edge // 2).astype(jnp.float32)
            for n, s, edge in zip(size, start, self, strict=True)
        )
        return Point(x[None, None, :], y[None, :, None], z[:, None, None])

    def index_range(
        self, lower: Array | np.ndarray, upper: Array | np.ndarray
    ) -> tuple[Int[Array, "3"], Int[Array, "3"]]:
        """Voxel indices (z, y, x), first and one past the last, of a box given in x, y, z coordinates."""
        sizes = jnp.asarray(self, jnp.int32)
        offset = sizes // 2
        # Clipping first keeps infinite bounds within what an int32 can hold.
        first = jnp.clip(jnp.floor(lower[::-1]), -offset - 1, sizes).astype(jnp.int32) + offset
        last = jnp.clip(jnp.ceil(upper[::-1]), -offset - 1, sizes).astype(jnp.int32) + offset + 1
        return jnp.clip(first, 0, sizes), jnp.clip(last, 0, sizes)

    def tiles(self, box: Box, tile: tuple[int, int, int]) -> tuple[Int[Array, "3"], Int[Array, "3"]]:
        """First tile (z, y, x) and number of tiles along each axis that a box touches, of tiles of this size."""
        begin, end = self.index_range(*box)
        edges = jnp.asarray(tile)
        first = begin // edges
        return first, jnp.where(end > begin, -(-end // edges) - first, 0)
