"""Tiles: how a grid is cut into equal blocks of voxels that fit a core's cache."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fdif_jax.sdf.grid import Box, Grid
from fdif_jax.sdf.shape import Point


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a grid is cut: equal tiles that cover it, the last ones perhaps reaching beyond it."""

    tile: tuple[int, int, int]
    padded: tuple[int, int, int]

    @classmethod
    def of(cls, grid: Grid, wish: tuple[int, int, int]) -> "Tiling":
        """Equal tiles about as large as the wish."""
        counts = [-(-edge // w) for edge, w in zip(grid, wish, strict=True)]
        z, y, x = (-(-edge // count) for edge, count in zip(grid, counts, strict=True))
        return cls((z, y, x), (z * counts[0], y * counts[1], x * counts[2]))

    @property
    def strips(self) -> "Tiling":
        """Every tile cut across y into three equal ones, or into two; as it is where neither comes out even."""
        z, y, x = self.tile
        return Tiling((z, y // next(n for n in (3, 2, 1) if y % n == 0), x), self.padded)

    @property
    def corners(self) -> Int[Array, "t 3"]:
        """Voxel index (z, y, x) of every tile."""
        counts = [edge // n for edge, n in zip(self.padded, self.tile, strict=True)]
        return jnp.indices(counts).reshape(3, -1).T * jnp.asarray(self.tile)

    def boxes(self, grid: Grid) -> Box:
        """Around the voxel centres of every tile and a hundredth of a voxel more, ``(t, 3)`` in x, y, z order."""
        lower = self.corners - jnp.asarray(grid) // 2
        upper, spacing = lower + jnp.asarray(self.tile) - 1, jnp.asarray(grid.spacing)
        return Box(((lower - 0.01) * spacing)[:, ::-1], ((upper + 0.01) * spacing)[:, ::-1])

    def start(self, first: Array, steps: Array, step: Array) -> tuple[Array, Array, Array]:
        """Voxel index (z, y, x) of the step-th tile of a block of tiles."""
        across = jnp.maximum(steps[2], 1)
        rows = jnp.maximum(steps[1], 1)
        position = (step // across // rows, step // across % rows, step % across)
        z, y, x = ((first[k] + position[k]) * self.tile[k] for k in range(3))
        return z, y, x

    def pad(self, volumes: Float[Array, "n D H W"]) -> Float[Array, "n d h w"]:
        """Volumes of the grid as large as the tiles."""
        beyond = [(0, padded - n) for padded, n in zip(self.padded, volumes.shape[1:], strict=True)]
        return jnp.pad(volumes, [(0, 0), *beyond], mode="edge")

    def within(self, grid: Grid, p: Point) -> Any:
        """Whether a voxel belongs to the grid, not to the padding."""
        inside: Any = True
        ends = grid.box.upper.tolist()
        for c, end, edge, padded in zip(p, ends, grid[::-1], self.padded[::-1], strict=True):
            if padded > edge:
                inside = inside & (c < end)
        return inside
