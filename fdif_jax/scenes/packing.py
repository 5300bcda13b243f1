"""Packed placement: objects one after another, largest first, each where it overlaps little of what is there.

Source: AVS-DB / PrimGeoSeg (arXiv 2401.03665). Everything runs inside the jitted step, on sets of voxels kept as
bits, 32 voxels of a row in a word: a try is a shift, an `and` and a count of bits.
"""

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from fdif_jax.errors import FdifError
from fdif_jax.rendering.renderer import BITS, Renderer, Table
from fdif_jax.rendering.tiling import Tiling
from fdif_jax.scenes.placement import Placement, SceneProgram, frame_of
from fdif_jax.sdf.affine import terms
from fdif_jax.sdf.grid import Grid
from fdif_jax.settings import at_least

# The six axis-aligned turns: proper rotations that take the z axis to ±z, ±x and ±y. Whole numbers, so that a
# turned object lies on the voxels just as the unturned one does.
TURNS = np.asarray(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
        [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
        [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
        [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
        [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    ],
    np.float32,
)


@dataclasses.dataclass(frozen=True)
class Packed(Placement):
    """Objects in order of falling volume at uniform whole-voxel positions, those that find no room left out.

    An object's ``frame()`` lies within the grid; along
    an axis where it is longer than the grid it is centred. With the recipe's ``transform`` each object is first
    turned by one of six axis-aligned `TURNS`. Volumes and overlaps are counts of the very voxels that the renderer
    labels. The placed objects come first in the table, largest first; ``number`` says how many they are.

    Attributes:
        max_overlap: greatest share (0 … 1) of an object's own voxels that earlier objects may hold already.
        tries: how many positions an object is tried at before it is left out.

    Raises:
        FdifError: a share outside 0 … 1, or fewer than one try.
    """

    kind: ClassVar[str] = "packed"

    max_overlap: float = 0.7
    tries: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.max_overlap <= 1:
            raise FdifError(f"max_overlap of the placement must be from 0 to 1, not {self.max_overlap:g}")
        at_least(self, 1, "tries")

    def place(
        self, key: jax.Array, program: SceneProgram, table: Table, scale: Float[Array, ""] | None = None
    ) -> Table:
        """The table with the objects at their places; pure and jittable."""
        size = table.branch.shape[0]
        turn_key, place_key = jax.random.split(key)
        turns = jnp.zeros(size, jnp.int32)
        if program.recipe.transform:
            turns = jax.random.randint(turn_key, (size,), 0, len(TURNS))
        linear = jnp.asarray(TURNS)[turns]
        back = jnp.swapaxes(linear, 1, 2)
        if scale is not None:
            # Of sixteenths, so that a moved and enlarged object lies on the voxels just as one at the origin does.
            shrink = jnp.maximum(jnp.round(16 / scale), 1) / 16
            linear, back = linear / shrink, back * shrink
        lowest, highest = _ranges(program.renderer, table, linear)
        voxels = _Voxels(program.renderer, table, back)
        order, shifts, placed = self._pack(place_key, voxels, lowest, highest)

        table = table._replace(inverse=_inverse(back, shifts, program.renderer.grid))
        order = order[jnp.argsort(~placed[order], stable=True)]
        rows = table._replace(number=jnp.zeros(size))
        return jax.tree.map(lambda leaf: leaf[order], rows)._replace(number=jnp.sum(placed, dtype=jnp.int32))

    def _pack(
        self, key: jax.Array, voxels: "_Voxels", lowest: Int[Array, "n 3"], highest: Int[Array, "n 3"]
    ) -> tuple[Int[Array, " n"], Int[Array, "n 3"], Bool[Array, " n"]]:
        """The order in which objects are placed, where (x, y, z), and whether there was room."""
        size = lowest.shape[0]
        masks = lax.map(lambda o: voxels.at(o[0], o[1]), (jnp.arange(size), lowest))
        volumes = jnp.sum(lax.population_count(masks), axis=(1, 2, 3)).astype(jnp.int32)
        volumes = jnp.where(jnp.arange(size) < voxels.table.number, volumes, 0)
        order = jnp.argsort(-volumes, stable=True)

        def place(step: Array, carry: tuple) -> tuple:
            filled, shifts, placed = carry
            o = order[step]

            def attempt(state: tuple) -> tuple:
                count, *_ = state
                draw = jax.random.fold_in(jax.random.fold_in(key, step), count)
                shift = jax.random.randint(draw, (3,), lowest[o], highest[o] + 1)
                if voxels.moves_rigidly:
                    bits, corner = _shifted(masks[o], shift - lowest[o])
                else:
                    bits, corner = _shifted(voxels.at(o, shift), jnp.zeros(3, jnp.int32))
                own, common = _count(bits), _count(bits & lax.dynamic_slice(filled, corner, bits.shape))
                fits = (own > 0) & (common <= self.max_overlap * own)
                return count + 1, fits, shift, corner, bits

            def searching(state: tuple) -> Array:
                count, fits, *_ = state
                return ~fits & (count < self.tries)

            state = attempt((jnp.int32(0),))
            _, fits, shift, corner, bits = lax.while_loop(searching, attempt, state)
            bits = jnp.where(fits, bits, 0) | lax.dynamic_slice(filled, corner, bits.shape)
            filled = lax.dynamic_update_slice(filled, bits, corner)
            return filled, shifts.at[o].set(shift), placed.at[o].set(fits)

        depth, height, words = masks.shape[1:]
        # Twice the grid, so that a shifted object's rows, empty beyond the grid, always find a place.
        filled = jnp.zeros((2 * depth, 2 * height, 2 * words + 1), jnp.uint32)
        nowhere = jnp.zeros((size, 3), jnp.int32), jnp.zeros(size, bool)
        visible = jnp.sum(volumes > 0)
        _, shifts, placed = lax.fori_loop(0, visible, place, (filled, *nowhere))
        return order, shifts, placed


def _count(bits: UInt[Array, "..."]) -> Int[Array, ""]:
    return jnp.sum(lax.population_count(bits), dtype=jnp.uint32).astype(jnp.int32)


def _shifted(
    bits: UInt[Array, "D H words"], shift: Int[Array, "3"]
) -> tuple[UInt[Array, "D H words+1"], tuple[Array, Array, Array]]:
    """Bits moved by less than a word along x, and the index (z, y, word) that says the rest of ``shift`` (x, y, z)."""
    x, y, z = shift
    within = (x % BITS).astype(jnp.uint32)
    left = jnp.pad(bits, ((0, 0), (0, 0), (0, 1))) << within
    # A shift by all 32 bits is undefined; one and the rest is not.
    carried = jnp.pad(bits, ((0, 0), (0, 0), (1, 0))) >> 1 >> (BITS - 1 - within)
    return left | carried, (z, y, x // BITS)


def _inverse(back: Float[Array, "n 3 3"], shifts: Int[Array, "n 3"], grid: Grid) -> Float[Array, "n 3 4"]:
    """World → local of turns back and whole-voxel shifts.

    Exact where voxels are 1 mm, as all numbers are small and whole or sixteenths then.
    """
    moved = shifts.astype(jnp.float32) * jnp.asarray(grid.spacing[::-1], jnp.float32)
    offset = jnp.sum(back * moved[:, None, :], axis=-1)
    return jnp.concatenate([back, -offset[..., None]], axis=2)


def _ranges(
    renderer: Renderer, table: Table, linear: Float[Array, "n 3 3"]
) -> tuple[Int[Array, "n 3"], Int[Array, "n 3"]]:
    """The least and the greatest shift (x, y, z) that keeps each turned object's box within the grid.

    ``linear`` is local → world.
    """
    frames = [partial(frame_of, structure) for structure in renderer.structures]
    spacing = jnp.asarray(renderer.grid.spacing[::-1], jnp.float32)
    voxels = Grid(*renderer.grid)  # of 1 mm: shifts are counted in voxels
    edges, top = jnp.asarray(voxels.edges, jnp.float32), jnp.asarray(voxels.highest, jnp.float32)

    def allowed(branch: Array, row: Array, turn: Array) -> tuple[Array, Array]:
        turned = jnp.concatenate([turn, jnp.zeros((3, 1))], axis=1)
        lower, upper = lax.switch(branch, frames, row).mapped(turned)
        # Clipping keeps what is unbounded finite, and longer than the grid.
        lower = jnp.clip(jnp.ceil(lower / spacing), -edges, edges)
        upper = jnp.clip(jnp.floor(upper / spacing), -edges, edges)
        lowest, highest = top + 1 - edges - lower, top - upper
        centred = jnp.floor((lowest + highest + 1) / 2)
        too_long = highest < lowest
        lowest, highest = jnp.where(too_long, centred, lowest), jnp.where(too_long, centred, highest)
        return lowest.astype(jnp.int32), highest.astype(jnp.int32)

    return lax.map(lambda o: allowed(*o), (table.branch, table.row, linear))


@dataclasses.dataclass(frozen=True)
class _Voxels:
    """Which voxels the objects of a table hold when they are moved somewhere."""

    renderer: Renderer
    table: Table
    back: Float[Array, "n 3 3"]

    @property
    def moves_rigidly(self) -> bool:
        """Whether a moved object holds the moved voxels; a displacement, being fixed in the world, undoes that."""
        return not self.renderer.displacements

    @property
    def plan(self) -> Tiling:
        """Tiles one word wide."""
        tile = (*Tiling.of(self.renderer.grid, self.renderer.tile).tile[:2], BITS)
        z, y, x = (-(-edge // t) * t for edge, t in zip(self.renderer.grid, tile, strict=True))
        return Tiling(tile, (z, y, x))

    def at(self, o: Array, shift: Int[Array, "3"]) -> UInt[Array, "D H words"]:
        """The voxels of object ``o`` moved by ``shift`` (x, y, z), as bits along x."""
        renderer, plan = self.renderer, self.plan
        one = jax.tree.map(
            lambda leaf: leaf[o][None], self.table._replace(number=jnp.zeros_like(self.table.branch))
        )
        one = one._replace(inverse=_inverse(self.back[o][None], shift[None], renderer.grid))
        first, steps = renderer.visible_tiles(one, plan.tile)
        evaluate, fields = renderer.evaluators(), renderer.displacement_fields()
        places = jnp.arange(BITS, dtype=jnp.uint32)

        def visit(step: Array, bits: Array) -> Array:
            z, y, x = plan.start(first[0], steps[0], step)
            p = renderer.grid.tile((z, y, x), plan.tile)
            d = lax.switch(one.branch[0], evaluate, one.row[0], terms(one.inverse[0], p))
            d = d + lax.switch(one.displacement[0], fields, p)
            inside = (d <= 0) & plan.within(renderer.grid, p)
            words = jnp.sum(inside.astype(jnp.uint32) << places, axis=-1, keepdims=True, dtype=jnp.uint32)
            return lax.dynamic_update_slice(bits, words, (z, y, x // BITS))

        depth, height, width = plan.padded
        empty = jnp.zeros((depth, height, width // BITS), jnp.uint32)
        return lax.fori_loop(0, jnp.prod(steps[0]), visit, empty)
