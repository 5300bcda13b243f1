"""Rendering: from a table of objects to an image and a label volume.

The tests' `render_reference` says what the result is, plainly and slowly. `Renderer` computes it in one pass,
exploiting:

- *Branches by structure.* Objects whose shapes share a structure share one compiled branch.
- *Tiles.* The grid is cut into tiles, and these into strips, that fit a core's cache; of each strip those objects are
  computed whose bounding box, grown by what their displacement and mapper can reach, meets it. It is a loop with
  traced bounds, so that time grows with what is visible.
- *Bit planes.* Which objects hold a voxel is one bit an object. Labels are painted at the end, when all volumes
  are known, instead of keeping every object's mask.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from fdif_jax.rendering.distances import (
    REACH,
    Edges,
    painted_last,
    painted_over,
    shown,
    unpainted,
    voxels_of_units,
)
from fdif_jax.rendering.tiling import Tiling
from fdif_jax.sdf.affine import Terms, invert, joined, terms
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.operations.parts import Region
from fdif_jax.sdf.shape import Box, Distance, Point, length
from fdif_jax.sdf.structure import Structure
from fdif_jax.vocabulary.vocabulary import Displacement, Mapper, growths

INTENSITY_TOP = 128.0
BITS = 32


class Table(NamedTuple):
    """The objects of one scene as arrays; n is the greatest possible number of objects.

    Attributes:
        number: how many of the n rows are objects, int32 ``()``.
        branch: which structure each object has, int32 ``(n,)``.
        row: its parameters, raveled and padded, float32 ``(n, P)``.
        inverse: world → local affine, float32 ``(n, 3, 4)``.
        displacement: its displacement, 0 for none, int32 ``(n,)``.
        mapper: its mapper, int32 ``(n,)``.
        label: its class id in each of T label maps, int32 ``(n, T)``.
        whole: which object each row is a part of, int32 ``(n,)``, the parts of one in consecutive rows; None where
            every row is an object.
    """

    number: Int[Array, ""]
    branch: Int[Array, " n"]
    row: Float[Array, "n P"]
    inverse: Float[Array, "n 3 4"]
    displacement: Int[Array, " n"]
    mapper: Int[Array, " n"]
    label: Int[Array, "n T"]
    whole: Int[Array, " n"] | None = None


class Rendering(NamedTuple):
    """One scene as volumes, or several with a leading batch axis.

    Attributes:
        image: intensities, float32 ``(D, H, W)``, 0 … 128.
        label: class ids, uint8 or uint16 ``(D, H, W)``, or ``(T, D, H, W)`` where a table has several label maps.
        owner: the instance that owns a voxel, uint8 or uint16 ``(D, H, W)``: 0 is background, i + 1 the table's row i.
        volumes: voxels that every object holds, seen or painted over, int32 ``(n,)``; the largest is painted first.
    """

    image: Float[Array, "D H W"]
    label: UInt[Array, "*tasks D H W"]
    owner: UInt[Array, "D H W"]
    volumes: Int[Array, " n"]


@dataclasses.dataclass(frozen=True)
class Renderer:
    """Renders tables of objects on one grid.

    Attributes:
        grid: voxels ``(D, H, W)``.
        structures: the branches; ``Table.branch`` counts into them.
        displacements: ``Table.displacement`` counts into them from 1; 0 is none.
        mappers: ``Table.mapper`` counts into them.
        top_label: the greatest class id, which decides the label's dtype.
        tile: edges of a tile (z, y, x), a compromise between a core's cache and the cost of a branch.
        partial_volume: images are antialiased: a voxel that a surface cuts has part of the object's intensity.
    """

    grid: Grid
    structures: tuple[Structure, ...]
    displacements: tuple[Displacement, ...]
    mappers: tuple[Mapper, ...]
    top_label: int
    tile: tuple[int, int, int] = (12, 24, 48)
    partial_volume: bool = False

    @property
    def width(self) -> int:
        """Numbers in a row of parameters."""
        return max(structure.width for structure in self.structures)

    def __call__(self, table: Table) -> tuple[UInt[Array, "D H W"], UInt[Array, "*tasks D H W"]]:
        """Image (uint8, 0 … 128, truncated) and label of one scene; see `intensities`."""
        image, label = self.intensities(table)
        return image.astype(jnp.uint8), label

    def intensities(self, table: Table) -> tuple[Float[Array, "D H W"], UInt[Array, "*tasks D H W"]]:
        """Image and label of one scene; see `render`."""
        return self.render(table)[:2]

    def render(self, table: Table) -> Rendering:
        """One scene; pure and jittable. What is not used of the result costs nothing under jit.

        Image: the sum of all objects' mapped distances, clipped. Label: the class of the smallest object that holds
        the voxel, the later one of equals, and of its parts the one that shows there. Owner: the row of that part.
        The tails of mappers that do not end at the surface are cut where all objects together stay below half a
        grey level.
        """
        objects = table.branch.shape[0]
        plan = self.plan
        rows, visits = self.visitors(table)
        beyond = self.shown_beyond(table)
        mappers = [jnp.zeros_like, *self.mapper_functions()]

        def visit(t: Array, p: Point, k: Array, carry: tuple) -> tuple:
            image, planes, volumes = carry
            i = rows[t, k]
            d = self.distance(table, i, p)
            inside = (d <= 0) & plan.within(self.grid, p)
            # XLA makes slow windows of a sum over a long axis.
            held = jnp.sum(jnp.sum(inside, axis=0, dtype=jnp.int16), dtype=jnp.int32)
            shows = beyond[i] | (held > 0)
            intensity = lax.switch(jnp.where(shows, table.mapper[i] + 1, 0), mappers, d)
            bit = inside.astype(jnp.uint32) << (i % BITS).astype(jnp.uint32)
            planes = _update(planes, (i // BITS, 0, 0, 0), lambda old: old | bit[None])
            return image + intensity, planes, volumes.at[i].add(held)

        def draw(t: Array, carry: tuple) -> tuple:
            image, planes, volumes = carry
            start = tuple(plan.corners[t])
            p = self.grid.tile(start, plan.tile)
            empty = jnp.zeros(plan.tile, jnp.float32), jnp.zeros((words, *plan.tile), jnp.uint32), volumes
            shade, bits, volumes = lax.fori_loop(0, visits[t], partial(visit, t, p), empty)
            image = lax.dynamic_update_slice(image, jnp.clip(shade, 0, INTENSITY_TOP), start)
            return image, lax.dynamic_update_slice(planes, bits, (0, *start)), volumes

        words = -(-objects // BITS)
        empty = (
            jnp.zeros(plan.padded, jnp.float32),
            jnp.zeros((words, *plan.padded), jnp.uint32),
            jnp.zeros(objects, jnp.int32),
        )
        image, planes, volumes = lax.fori_loop(0, len(visits), draw, empty)
        painted = self.paint(planes[self.crop], whole_volumes(table, volumes), table.label)
        return Rendering(image[self.crop], *painted, volumes)

    def distances(
        self, table: Table, volumes: Int[Array, " n"], edges: Edges | None = None
    ) -> Float[Array, "2 D H W"]:
        """How far voxels of one scene are from surfaces, in millimetres, cut at ±`REACH`; pure and jittable.

        First the signed distance to the surface of the object that owns the voxel, also where that surface is painted
        over; where no object is, to the nearest surface. Second the distance, 0 or more, to the nearest boundary
        between owners. Objects that hold no voxel do not count, nor do the faces of the grid.

        Both are as true as the shapes' distances are: a displacement is added to them as it is in the image.

        Args:
            table: the objects.
            volumes: that `render` found.
            edges: of the window that the scene is seen through.
        """
        plan = Tiling.of(self.grid, self.tile)
        table = in_painting_order(table, volumes)
        units = voxels_of_units(table.inverse)
        first, steps = self.visible_tiles(table, plan.tile, REACH / units)
        cut = None if edges is None else plan.pad(edges.cut)

        def visit(i: Array, step: Array, carry: Array) -> Array:
            start = plan.start(first[i], steps[i], step)
            d = units[i] * self.distance(table, i, self.grid.tile(tuple(start), plan.tile))
            place = (0, *start)
            if cut is not None:
                d = shown(d, lax.dynamic_slice(cut, place, (4, *plan.tile)), self.grid.spacing)
            own, boundary = lax.dynamic_slice(carry, place, (2, *plan.tile))
            return lax.dynamic_update_slice(carry, jnp.stack(painted_over(own, boundary, d)), place)

        def draw(i: Array, carry: Array) -> Array:
            return lax.fori_loop(0, jnp.prod(steps[i]), partial(visit, i), carry)

        painted = lax.fori_loop(0, table.number, draw, plan.pad(unpainted(self.grid, edges)))
        return painted_last(painted[self.crop], edges)

    @property
    def crop(self) -> tuple:
        """The grid of padded volumes, behind any other axes."""
        return (..., *(slice(0, edge) for edge in self.grid))

    def distance(self, table: Table, i: Array, p: Point) -> Distance:
        """Signed distance to object ``i`` in its own units, negative inside, displaced."""
        local = terms(table.inverse[i], p)
        field = lax.switch(table.displacement[i], self.displacement_fields(), p)
        if self.has_parts:
            displaced = [partial(_displaced, structure) for structure in self.structures]
            return lax.switch(table.branch[i], displaced, table.row[i], local, field)
        return lax.switch(table.branch[i], self.evaluators(), table.row[i], local) + field

    @cached_property
    def plan(self) -> Tiling:
        """How `render` cuts the grid: in strips, but for partial volume, whose slopes end at the faces of a tile."""
        plan = Tiling.of(self.grid, self.tile)
        return plan if self.partial_volume else plan.strips

    @cached_property
    def has_parts(self) -> bool:
        """Whether some rows are parts of objects."""
        return any(isinstance(structure.empty, Region) for structure in self.structures)

    def evaluators(self) -> list[Callable[[Array, Terms], Distance]]:
        """What `Table.branch` counts into: functions of a row of parameters and of local points in terms."""
        return [partial(_evaluate, structure) for structure in self.structures]

    def mapper_functions(self) -> list[Callable[[Distance], Distance]]:
        """What `Table.mapper` counts into: functions of a distance."""
        return [self._antialiased(m) if self.partial_volume else m.function for m in self.mappers]

    def _antialiased(self, mapper: Mapper) -> Callable[[Distance], Distance]:
        """The mapper of a tile's distances with half the intensity at the surface instead of a step.

        A mapper that does not end at the surface has no step there and stays as it is. How far a voxel is from a
        surface is its distance over the slope of the distances around it, as not all distances are true.
        """
        if mapper.tail is not None:
            return mapper.function
        widest = max(self.grid.spacing)

        def function(d: Distance) -> Distance:
            near = jnp.clip(d, -2.0 * widest, 2.0 * widest)
            slope = length(*jnp.gradient(near))  # per voxel: of a true distance the width of one across
            coverage = jnp.clip(0.5 - near / jnp.clip(slope, 1e-3 * widest, widest), 0, 1)
            return mapper.function(jnp.minimum(d, 0)) * coverage

        return function

    def displacement_fields(self) -> list:
        """What `Table.displacement` counts into: functions of a point, the first one 0."""
        highest = Point(*map(float, self.grid.highest))

        def field(function: Any, p: Point) -> Distance:
            return jnp.broadcast_to(function(p, highest), jnp.broadcast_shapes(*map(jnp.shape, p)))

        return [
            partial(field, lambda p, highest: jnp.float32(0)),
            *(partial(field, displacement.field) for displacement in self.displacements),
        ]

    def shown_beyond(self, table: Table) -> Bool[Array, " n"]:
        """Whether each object shows beyond its surface."""
        beyond = [self.partial_volume or mapper.tail is not None for mapper in self.mappers]
        return jnp.asarray(beyond)[table.mapper]

    def visitors(self, table: Table) -> tuple[Int[Array, "t n"], Int[Array, " t"]]:
        """Of every tile of `plan` the objects that can touch it, in order and before all others, and how many they are.

        The box of an object must meet the tile along the axes of the grid and along its own. What shows beyond a
        surface is cut by the grid's axes alone, at tiles that are not in strips: images depend on where a tail ends.
        """
        plan, (world, own) = self.plan, self._boxes(table, None)

        def meets(tile: Box, box: Box, inverse: Array) -> Any:
            turned = tile.mapped(inverse)
            return ((turned.lower <= box.upper) & (turned.upper >= box.lower)).all()

        def touched(tiles: Tiling) -> Any:
            first, steps = self._tiles(world, tiles.tile)
            at = (plan.corners // jnp.asarray(tiles.tile))[:, None]
            return ((at >= first) & (at < first + steps)).all(-1)

        each = jax.vmap(jax.vmap(meets, (None, 0, 0)), (0, None, None))
        seen = touched(plan) & each(plan.boxes(self.grid), own, table.inverse)
        seen = jnp.where(self.shown_beyond(table), touched(Tiling.of(self.grid, self.tile)), seen)
        seen &= jnp.arange(seen.shape[1]) < table.number
        return jnp.argsort(~seen, axis=1, stable=True), seen.sum(1)

    def visible_tiles(
        self, table: Table, tile: tuple[int, int, int], reach: Float[Array, " n"] | None = None
    ) -> tuple[Int[Array, "n 3"], Int[Array, "n 3"]]:
        """First tile (z, y, x) and number of tiles along each axis that every object can touch.

        Args:
            table: the objects.
            tile: voxels (z, y, x) of a tile.
            reach: how far beyond its surface each is asked for, in its own units; as far as it shows if not given.
        """
        return self._tiles(self._boxes(table, reach)[0], tile)

    def _tiles(self, boxes: Box, tile: tuple[int, int, int]) -> tuple[Int[Array, "n 3"], Int[Array, "n 3"]]:
        return jax.vmap(lambda box: self.grid.tiles(box, tile))(boxes)

    def _boxes(self, table: Table, reach: Float[Array, " n"] | None) -> tuple[Box, Box]:
        """Boxes ``(n, 3)`` around what is asked for of every object: in the world, and in its own coordinates."""
        negligible = 0.5 / table.branch.shape[0]
        least = 0.5 * max(self.grid.spacing) if self.partial_volume else 0.0
        growth = jnp.asarray([0.0, *growths(self.displacements, self.grid)], jnp.float32)
        if reach is None:
            shown = [max(m.reach(negligible), least) for m in self.mappers]
            reach = jnp.asarray(shown, jnp.float32)[table.mapper]
        margin = growth[table.displacement] + reach
        bounds = [partial(_bounds, structure) for structure in self.structures]

        def around(branch: Array, row: Array, inverse: Array, margin: Array) -> tuple[Box, Box]:
            box = lax.switch(branch, bounds, row, margin)
            return box.mapped(invert(inverse)), box

        return lax.map(lambda o: around(*o), (table.branch, table.row, table.inverse, margin))

    def paint(self, planes: Array, volumes: Array, labels: Int[Array, "n T"]) -> tuple[Array, Array]:
        """Label and owner of the voxels: the rows whose bits ``planes`` holds, painted by falling ``volumes``."""
        order, (objects, tasks) = painting_order(volumes), labels.shape
        columns = [*labels.T, jnp.arange(1, objects + 1)]
        dtypes = [whole_numbers(self.top_label)] * tasks + [whole_numbers(objects)]
        painted = [jnp.zeros(planes.shape[1:], dtype) for dtype in dtypes]
        for i in range(objects):
            o = order[i]
            plane = planes[0] if planes.shape[0] == 1 else planes[o // BITS]
            held = (plane >> (o % BITS).astype(jnp.uint32)) & 1
            painted = [
                jnp.where(held == 1, ids[o].astype(old.dtype), old)
                for ids, old in zip(columns, painted, strict=True)
            ]
        *maps, owner = painted
        return maps[0] if tasks == 1 else jnp.stack(maps), owner


def painting_order(volumes: Int[Array, " n"]) -> Int[Array, " n"]:
    """The objects by falling volume, the earlier one of equals first."""
    return jnp.argsort(-volumes, stable=True)


def whole_volumes(table: Table, volumes: Int[Array, " n"]) -> Int[Array, " n"]:
    """Of every row, the volume of the object that it is a part of."""
    if table.whole is None:
        return volumes
    return jax.ops.segment_sum(volumes, table.whole, len(volumes))[table.whole]


def in_painting_order(table: Table, volumes: Int[Array, " n"]) -> Table:
    """The rows that hold a voxel, in the order in which they are painted."""
    order = painting_order(whole_volumes(table, volumes))
    if table.whole is not None:  # hidden parts of an object are among the others
        order = order[jnp.argsort(volumes[order] == 0, stable=True)]
    ordered = jax.tree.map(lambda column: column[order], table._replace(number=volumes))
    return ordered._replace(number=(volumes > 0).sum(dtype=jnp.int32))


def whole_numbers(top: int) -> Any:
    """The dtype of ids from 0 to ``top``."""
    return jnp.uint8 if top < 256 else jnp.uint16


def _evaluate(structure: Structure, row: Array, local: Terms) -> Distance:
    return structure.unpack(row)(joined(local))


def _displaced(structure: Structure, row: Array, local: Terms, field: Distance) -> Distance:
    shape, p = structure.unpack(row), joined(local)
    return shape.displaced(p, field) if isinstance(shape, Region) else shape(p) + field


def _bounds(structure: Structure, row: Array, margin: Array) -> Box:
    lower, upper = structure.unpack(row).bounds(margin)
    return Box(jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))


def _update(volume: Array, start: tuple, change: Any) -> Array:
    """Apply ``change`` to one tile of ``volume`` in place."""
    size = jax.eval_shape(change, jax.ShapeDtypeStruct((1,) * volume.ndim, volume.dtype)).shape
    tile = lax.dynamic_slice(volume, start, size)
    return lax.dynamic_update_slice(volume, change(tile), start)
