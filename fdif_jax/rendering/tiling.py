"""Tiles: how a grid is cut into equal blocks of voxels that fit a core's cache."""

import dataclasses
import math
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
    def counts(self) -> tuple[int, int, int]:
        """How many tiles there are along z, y, x."""
        z, y, x = (edge // n for edge, n in zip(self.padded, self.tile, strict=True))
        return z, y, x

    @property
    def number(self) -> int:
        """How many tiles there are."""
        return math.prod(self.counts)

    def position(self, t: Array) -> Int[Array, "... 3"]:
        """Which tile (z, y, x) the t-th is."""
        return jnp.stack(jnp.unravel_index(t, self.counts), axis=-1)

    def corner(self, t: Array) -> tuple[Array, Array, Array]:
        """Voxel index (z, y, x) of the t-th tile."""
        z, y, x = self.position(t) * jnp.asarray(self.tile)
        return z, y, x

    def boxes(self, grid: Grid) -> Box:
        """Around the voxel centres of each tile and a hundredth of a voxel more, ``(t, 3)`` in x, y, z order."""
        begin = self.position(jnp.arange(self.number)) * jnp.asarray(self.tile)
        offset, spacing = jnp.asarray(grid) // 2, jnp.asarray(grid.spacing)
        lower, upper = begin - offset - 0.01, begin + jnp.asarray(self.tile) - offset - 0.99
        return Box((lower * spacing)[:, ::-1], (upper * spacing)[:, ::-1])

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
