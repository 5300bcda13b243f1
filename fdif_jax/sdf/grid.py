"""Points, boxes, and the voxel grid: which point each voxel of a volume stands for."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from fdif_jax.errors import FdifError

Coordinate = Num[Array | np.ndarray, "..."] | float | int
Distance = Float[Array | np.ndarray, "..."]
Scalar = Float[Array, ""] | float


class Point(NamedTuple):
    """Coordinates in millimetres (voxels of 1 mm); three arrays that broadcast against each other."""

    x: Coordinate
    y: Coordinate
    z: Coordinate


class Box(NamedTuple):
    """An axis-aligned box; ``lower`` and ``upper`` are float32 ``(3,)`` in x, y, z order, in millimetres."""

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


MOST_VOXELS = 2**31 - 1
"""The most voxels of a grid, as XLA's programs number them with an int32."""


class _Voxels(NamedTuple):
    depth: int
    height: int
    width: int


class Grid(_Voxels):
    """The shape ``(depth, height, width)`` of a volume indexed ``[z, y, x]``, and how far its voxels lie apart.

    Along an edge of n voxels, s millimetres apart, the coordinate of voxel i is ``(i - n // 2) * s``: 96 voxels of
    1 mm, the default, go from -48 to 47. It is a tuple of its three numbers of voxels; equal grids have equal spacings.

    Attributes:
        spacing: millimetres between voxel centres along z, y, x.

    Raises:
        FdifError: the spacing is not three finite numbers above 0, or there are more voxels than an int32 counts.
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __new__(cls, depth: int, height: int, width: int, *, spacing: Any = (1.0, 1.0, 1.0)) -> "Grid":
        """See the class."""
        grid = super().__new__(cls, depth, height, width)
        if math.prod(n for n in grid if isinstance(n, int)) > MOST_VOXELS:  # JAX may put a tracer there
            raise FdifError(f"a grid has at most {MOST_VOXELS:,} voxels")
        grid.spacing = checked_spacing(spacing)
        return grid

    def __getnewargs_ex__(self) -> tuple[tuple, dict]:  # for pickling
        return tuple(self), {"spacing": self.spacing}

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, tuple) and tuple.__eq__(self, other)
        return same and self.spacing == getattr(other, "spacing", Grid.spacing)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        # A plain tuple is as good as a grid of 1 mm.
        return hash(tuple(self) if self.spacing == Grid.spacing else (*self, self.spacing))

    def __repr__(self) -> str:
        edges = f"depth={self.depth}, height={self.height}, width={self.width}"
        return f"Grid({edges}{'' if self.spacing == Grid.spacing else f', spacing={self.spacing}'})"

    @property
    def edges(self) -> Point:
        """How long it is along x, y, z, millimetres."""
        return Point(*(n * s for n, s in zip(self[::-1], self.spacing[::-1], strict=True)))

    @property
    def highest(self) -> Point:
        """The greatest coordinate along x, y, z."""
        return Point(*((n - 1 - n // 2) * s for n, s in zip(self[::-1], self.spacing[::-1], strict=True)))

    @property
    def box(self) -> Box:
        """All voxels, out to their faces."""
        lower = [-(n // 2 + 0.5) * s for n, s in zip(self[::-1], self.spacing[::-1], strict=True)]
        lowest = np.asarray(lower, np.float32)
        return Box(lowest, lowest + np.asarray(self.edges, np.float32))

    @property
    def of_millimetres(self) -> "Grid":
        """The grid of 1 mm voxels that is as long, to whole millimetres: what random members are sized for."""
        if self.spacing == Grid.spacing:
            return self
        return Grid(*(max(round(n * s), 1) for n, s in zip(self, self.spacing, strict=True)))

    def points(self) -> Point:
        """The open mesh of all voxels: x ``(1,1,W)``, y ``(1,H,1)``, z ``(D,1,1)``, float32."""
        return self.tile((0, 0, 0), self)

    def tile(self, start: tuple, size: tuple[int, int, int]) -> Point:
        """The open mesh of the ``size`` (d, h, w) voxels from index ``start`` (z, y, x; may be traced)."""
        z, y, x = (
            (jnp.arange(n, dtype=jnp.int32) + first - edge // 2).astype(jnp.float32) * step
            for n, first, edge, step in zip(size, start, self, self.spacing, strict=True)
        )
        return Point(x[None, None, :], y[None, :, None], z[:, None, None])

    def index_range(
        self, lower: Array | np.ndarray, upper: Array | np.ndarray
    ) -> tuple[Int[Array, "3"], Int[Array, "3"]]:
        """Voxel indices (z, y, x), first and one past the last, of a box given in x, y, z coordinates."""
        sizes = jnp.asarray(self, jnp.int32)
        offset, spacing = sizes // 2, jnp.asarray(self.spacing, jnp.float32)
        # Clipping first keeps infinite bounds within what an int32 can hold.
        first = jnp.clip(jnp.floor(lower[::-1] / spacing), -offset - 1, sizes).astype(jnp.int32) + offset
        last = jnp.clip(jnp.ceil(upper[::-1] / spacing), -offset - 1, sizes).astype(jnp.int32) + offset + 1
        return jnp.clip(first, 0, sizes), jnp.clip(last, 0, sizes)

    def tiles(self, box: Box, tile: tuple[int, int, int]) -> tuple[Int[Array, "3"], Int[Array, "3"]]:
        """First tile (z, y, x) and number of tiles along each axis that a box touches, of tiles of this size."""
        begin, end = self.index_range(*box)
        edges = jnp.asarray(tile)
        first = begin // edges
        return first, jnp.where(end > begin, -(-end // edges) - first, 0)


def checked_spacing(value: Any) -> tuple[float, float, float]:
    """Millimetres between voxel centres along z, y, x; FdifError if they are not three finite numbers above 0."""
    try:
        z, y, x = map(float, value)
    except (TypeError, ValueError):
        z = y = x = math.nan
    if not all(0 < s < math.inf for s in (z, y, x)):
        raise FdifError(f"spacing must be three finite numbers of mm above 0 (z, y, x), not {value!r}")
    return z, y, x
