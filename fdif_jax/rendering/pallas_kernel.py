"""Rendering on a GPU: one kernel walks every tile's objects with the branch inside.

`Renderer` asks the host nothing, but on a GPU its loop of small programs is all launching. Here a tile of voxels is one
program of a Pallas kernel. It exploits:

- *Registers.* A tile's intensities and the bits of the objects that hold its voxels stay in registers from the first
  object to the last, and are written once.
- *A branch a tile.* All voxels of a tile take the same branch, and an object that cannot touch the tile, by the bounds
  that `Renderer` culls with, costs six comparisons.
- *Batches.* Scenes are drawn and rendered side by side, as many as a batch has.

Labels are painted from the bits by `Renderer.paint`, as they are on a CPU. Formulas only: a kernel cannot look up the
sampled grids that organs and meshes are.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int, UInt

from fdif_jax.errors import FdifError
from fdif_jax.rendering.branch_free import BranchFree
from fdif_jax.rendering.distances import REACH, Edges, painted_over, voxels_of_units
from fdif_jax.rendering.renderer import (
    BITS,
    INTENSITY_TOP,
    Renderer,
    Rendering,
    Table,
    in_painting_order,
)
from fdif_jax.rendering.tiling import Tiling
from fdif_jax.sdf.affine import move
from fdif_jax.sdf.shape import Point
from fdif_jax.sdf.structure import Structure

# Voxels (z, y, x) of a program, powers of two, as Triton asks for; and the warps of 32 threads that share them. Of
# eight pairs the fastest on an H200, by up to a factor of five (docs/performance.md): compact tiles see few objects.
TILE = (8, 8, 16)
WARPS = 8


class Numbers:
    """Numbers in the device's memory as an array of a given shape, of which a kernel reads what it indexes.

    A kernel can hold a number or a tile, but not a small array to take numbers out of.
    """

    def __init__(self, read: Any, start: int, shape: tuple[int, ...]):
        self._read, self._start, self.shape = read, start, shape

    def __getitem__(self, index: Any) -> Any:
        """A number, or what is left when the first axes are indexed."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if not 0 <= first < self.shape[0]:
            raise IndexError(first)
        stride = math.prod(self.shape[1:])
        part = Numbers(self._read, self._start + first * stride, self.shape[1:])
        if rest:
            return part[tuple(rest)]
        return part if part.shape else part.number()

    def __iter__(self) -> Iterator[Any]:
        """Along the first axis."""
        return (self[i] for i in range(self.shape[0]))

    def number(self) -> Array:
        """The number, of shape ()."""
        return self._read(self._start)


def _is_formula(structure: Structure) -> bool:
    """Whether a shape's distance needs the point and its own numbers only, one by one."""

    def distance(row: Array) -> Array:
        return _unpack(structure, lambda k: row[k])(Point(0.0, 0.0, 0.0))

    try:
        jaxpr = jax.make_jaxpr(distance)(jnp.zeros(structure.width))
    except (TypeError, AttributeError):  # `Numbers` taken for an array, as in a loop over parts
        return False
    return not any(jnp.ndim(constant) for constant in jaxpr.consts)


def _unpack(structure: Structure, read: Any) -> Any:
    """The shape whose parameters ``read(k)`` gives one by one."""
    leaves, start = [], 0
    for size in structure.sizes:
        held = Numbers(read, start, size)
        leaves.append(held if size else held.number())
        start += math.prod(size)
    return jax.tree.unflatten(structure.treedef, leaves)


@dataclasses.dataclass(frozen=True)
class TileKernel:
    """Renders batches of tables as ``renderer`` would, by one kernel.

    Attributes:
        renderer: what is rendered.
        interpret: run without a GPU, slowly.
        tile: voxels (z, y, x) of a program, powers of two.
        warps: of a program.
    """

    renderer: Renderer
    interpret: bool = False
    tile: tuple[int, int, int] = TILE
    warps: int = WARPS

    @staticmethod
    def refusal(renderer: Renderer) -> str | None:
        """Why the kernel cannot render what ``renderer`` does; None where it can."""
        if renderer.partial_volume:
            return "the kernel cannot antialias; leave out partial_volume, or the kernel"
        if renderer.has_parts:
            return "the kernel renders objects of one label; render objects of several parts without it"
        if not all(map(_is_formula, renderer.structures)):
            return (
                "the kernel renders formulas only; render organs, masks, meshes, tubes and trees without it"
            )
        return None

    def intensities(self, tables: Table) -> tuple[Float[Array, "B D H W"], UInt[Array, "B *tasks D H W"]]:
        """Images and labels of tables with a leading batch axis; see `render`."""
        return self.render(tables)[:2]

    def render(self, tables: Table) -> Rendering:
        """Scenes of tables with a leading batch axis, as `Renderer.render` gives each.

        Raises:
            FdifError: a shape looks up more than its own numbers, as organs and meshes do; or partial volume, which
                compares a voxel with its neighbours.
        """
        refusal = self.refusal(self.renderer)
        if refusal is not None:
            raise FdifError(refusal)
        batch, objects = tables.branch.shape
        tiles = math.prod(edge // n for edge, n in zip(self._plan.padded, self.tile, strict=True))
        counts = jax.ShapeDtypeStruct((batch, tiles, objects), jnp.int32)
        image, planes, held = self._call(
            _render_tile,
            (*tables[:6], *self._visible(tables)),
            self._volume(batch, jnp.float32),
            self._volume(batch, jnp.uint32, -(-objects // BITS)),
            (counts, pl.BlockSpec(memory_space=pl.ANY)),
        )
        volumes, crop = held.sum(1), self.renderer.crop
        painted = jax.vmap(self.renderer.paint)(planes[crop], volumes, tables.label)
        return Rendering(image[crop], *painted, volumes)

    def distances(
        self, tables: Table, volumes: Int[Array, "B n"], edges: Edges | None = None
    ) -> Float[Array, "B 2 D H W"]:
        """Distances in scenes of tables with a leading batch axis, as `Renderer.distances` gives each.

        Those of scenes behind windows, which compare a voxel with its neighbours, are `BranchFree`'s.
        """
        if edges is not None:
            return BranchFree(self.renderer).distances(tables, volumes, edges)
        tables = jax.vmap(in_painting_order)(tables, volumes)
        units = jax.vmap(voxels_of_units)(tables.inverse)
        visible = self._visible(tables, REACH / units)
        out = self._volume(len(units), jnp.float32, 2)
        (distances,) = self._call(_measure_tile, (*tables[:5], *visible, units), out)
        return distances[self.renderer.crop]

    @property
    def _plan(self) -> Tiling:
        """The grid in whole tiles."""
        z, y, x = (-(-edge // n) * n for edge, n in zip(self.renderer.grid, self.tile, strict=True))
        return Tiling(self.tile, (z, y, x))

    def _visible(self, tables: Table, *reach: Array) -> tuple[Array, Array]:
        visible = self.renderer.visible_tiles
        return jax.vmap(lambda table, *reach: visible(table, self.tile, *reach))(tables, *reach)

    def _volume(self, batch: int, dtype: Any, *lead: int) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
        """A volume a scene, or several, that is written tile by tile."""
        block = pl.BlockSpec((None, *lead, *self.tile), lambda b, *tile: (b, *(0 for _ in lead), *tile))
        return jax.ShapeDtypeStruct((batch, *lead, *self._plan.padded), dtype), block

    def _call(self, kernel: Any, inputs: tuple, *outputs: tuple[jax.ShapeDtypeStruct, pl.BlockSpec]) -> Any:
        """What a kernel writes, that runs once for every tile of every scene; all inputs stay where they are."""
        shapes, blocks = zip(*outputs, strict=True)
        tiles = (edge // n for edge, n in zip(self._plan.padded, self.tile, strict=True))
        return pl.pallas_call(
            partial(kernel, self.renderer, self._plan),
            grid=(len(inputs[0]), *tiles),
            out_shape=shapes,
            out_specs=blocks,
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * len(inputs),
            compiler_params=triton.CompilerParams(num_warps=self.warps, num_stages=1),
            interpret=self.interpret,
        )(*inputs)


class _Objects:
    """The objects of a program's scene, and its tile of voxels; which both are, is its place in the kernel's grid."""

    def __init__(self, renderer: Renderer, plan: Tiling, columns: tuple, first: Any, steps: Any):
        self.scene, *self.place = (pl.program_id(axis) for axis in range(4))
        corner = tuple(at * n for at, n in zip(self.place, plan.tile, strict=True))
        self.p = renderer.grid.tile(corner, plan.tile)
        self._renderer, self._columns, self._first, self._steps = renderer, columns, first, steps

    def distance(self, i: Array) -> Array:
        """As `Renderer.distance`, of the tile."""
        branch, row, inverse, displacement = self._columns
        scene, renderer = self.scene, self._renderer
        matrix: Any = Numbers(lambda k: inverse[scene, i, k // 4, k % 4], 0, (3, 4))
        shapes = [
            partial(lambda structure, at: _unpack(structure, lambda k: row[scene, i, k])(at), structure)
            for structure in renderer.structures
        ]
        d = lax.switch(branch[scene, i], shapes, move(matrix, self.p))
        return d + lax.switch(displacement[scene, i], renderer.displacement_fields(), self.p)

    def seen(self, i: Array) -> Array:
        """Whether an object can touch the tile."""
        seen = jnp.bool_(True)
        for k, at in enumerate(self.place):
            position = at - self._first[self.scene, i, k]
            seen = seen & (position >= 0) & (position < self._steps[self.scene, i, k])
        return seen


def _render_tile(
    renderer: Renderer,
    plan: Tiling,
    number: Any,
    branch: Any,
    row: Any,
    inverse: Any,
    displacement: Any,
    mapper: Any,
    first: Any,
    steps: Any,
    image: Any,
    planes: Any,
    counts: Any,
) -> None:
    """One program of `TileKernel.render`."""
    objects = _Objects(renderer, plan, (branch, row, inverse, displacement), first, steps)
    scene, place = objects.scene, objects.place
    tiles = [pl.num_programs(axis) for axis in (1, 2, 3)]
    tile = (place[0] * tiles[1] + place[1]) * tiles[2] + place[2]
    within, mappers = plan.within(renderer.grid, objects.p), [m.function for m in renderer.mappers]

    def draw(begin: int, i: Array, intensity: Array, bits: Array) -> tuple[Array, Array, Array]:
        d = objects.distance(i)
        inside = (d <= 0) & within
        bit = inside.astype(jnp.uint32) << (i - begin).astype(jnp.uint32)
        intensity = intensity + lax.switch(mapper[scene, i], mappers, d)
        return intensity, bits | bit, jnp.sum(inside.astype(jnp.int32))

    def visit(begin: int, i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        seen = objects.seen(i)
        *carried, held = lax.cond(seen, partial(draw, begin), lambda i, *same: (*same, i - i), i, *carry)
        counts[scene, tile, i] = held
        return tuple(carried)

    intensity = jnp.zeros(plan.tile, jnp.float32)
    for word in range(planes.shape[0]):
        begin, end = word * BITS, jnp.minimum(number[scene], (word + 1) * BITS)
        intensity, bits = lax.fori_loop(
            begin, end, partial(visit, begin), (intensity, jnp.zeros(plan.tile, jnp.uint32))
        )
        planes[word] = bits
    image[...] = jnp.clip(intensity, 0, INTENSITY_TOP)


def _measure_tile(
    renderer: Renderer,
    plan: Tiling,
    number: Any,
    branch: Any,
    row: Any,
    inverse: Any,
    displacement: Any,
    first: Any,
    steps: Any,
    units: Any,
    distances: Any,
) -> None:
    """One program of `TileKernel.distances`."""
    objects = _Objects(renderer, plan, (branch, row, inverse, displacement), first, steps)

    def draw(i: Array, own: Array, boundary: Array) -> tuple[Array, Array]:
        return painted_over(own, boundary, units[objects.scene, i] * objects.distance(i))

    def visit(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.cond(objects.seen(i), draw, lambda i, *same: same, i, *carry)

    far = jnp.full(plan.tile, REACH, jnp.float32)
    painted = lax.fori_loop(0, number[objects.scene], visit, (far, far))
    distances[0], distances[1] = (jnp.clip(d, -REACH, REACH) for d in painted)
