"""Which organs may overlap: the graph of a bank, enforced voxel by voxel as organs are put one after another."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from fdif_jax.anatomy.bank import DISJOINT, INSIDE, TOUCHING, Bank
from fdif_jax.rendering.renderer import BITS
from fdif_jax.rendering.tiling import Tiling
from fdif_jax.sdf.affine import invert, move
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point, Shape

LAYER = 1.0  # millimetres of the grid (voxels of 1 mm): how deep organs may overlap
TILE = (8, 16, 32)  # organs are small beside the grid; measured


@dataclasses.dataclass(frozen=True)
class Check:
    """Which organs hold a voxel, as bit planes, and what the graph says of an organ that is added.

    Planes are uint32 ``(2 or 3, words, D, H, W)``: inside; deeper inside than `LAYER`; and, where the bank has
    containers, within `LAYER` of a container's closed outline.
    """

    bank: Bank  # of which the organs are, and whose graph rules
    grid: Grid  # that of the scene
    plan: Tiling  # how the grid is cut into tiles
    words: int  # that hold a bit for every object

    @classmethod
    def of(cls, bank: Bank, grid: Grid, objects: int) -> "Check":
        """The check for scenes of at most this many organs of ``bank`` on ``grid``."""
        return cls(bank, grid, Tiling.of(grid, TILE), -(-objects // BITS))

    @property
    def holds(self) -> bool:
        """Whether any organ of the bank holds another."""
        return bool((self.bank.relation() == INSIDE).any())

    def empty(self) -> Array:
        """Planes of no object."""
        return jnp.zeros((2 + self.holds, self.words, *self.plan.padded), jnp.uint32)

    def masks(self, shape: Shape, inverse: Float[Array, "3 4"], tiles: tuple) -> Array:
        """What the organ is at each voxel of its tiles (see `_mask`), uint8."""

        def visit(start: tuple, masks: Array) -> Array:
            return lax.dynamic_update_slice(masks, self._mask(shape, inverse, start, 1), start)

        return self._each(tiles, visit, self.no_masks())

    def no_masks(self) -> Array:
        """Masks without a bit, uint8."""
        return jnp.zeros(self.plan.padded, jnp.uint8)

    def _mask(self, shape: Shape, inverse: Float[Array, "3 4"], start: tuple, every: int) -> Array:
        """Bits at every n-th voxel of a tile, uint8: inside 1, deep inside 2, within a container's outline 4."""
        hull = jnp.asarray(self.bank.hull)[jnp.round(shape.member).astype(jnp.int32)]  # type: ignore[attr-defined]
        outline = dataclasses.replace(shape, member=hull.astype(jnp.float32))  # type: ignore[type-var]
        tile = map(jnp.asarray, self.grid.tile(start, self.plan.tile))
        p = Point(*(c[::every, ::every, ::every] for c in tile))
        local = move(inverse, p)
        d = shape(local)
        held = jnp.where((d <= 0) & self.plan.within(self.grid, p), jnp.where(d < -LAYER, 3, 1), 0)
        if self.holds:
            held = held + jnp.where(outline(local) <= LAYER, 4, 0)
        return held.astype(jnp.uint8)

    def probe(
        self, planes: Array, i: Array, organ: Array, shape: Shape, inverse: Float[Array, "3 4"], tiles: tuple
    ) -> Array:
        """False where every second voxel along each axis already shows that object i does not fit."""
        look = lambda start: self._mask(shape, inverse, start, 2)  # noqa: E731
        broken, _ = self._found(planes, i, organ, look, tiles, 2)
        return ~broken

    def fits(self, planes: Array, i: Array, organ: Array, masks: Array, tiles: tuple) -> Array:
        """Whether the graph lets object i in, whose `masks` these are; False too if it is not to be seen."""
        look = lambda start: lax.dynamic_slice(masks, start, self.plan.tile)  # noqa: E731
        broken, voxels = self._found(planes, i, organ, look, tiles, 1)
        return ~broken & (voxels > 0)

    def _found(
        self, planes: Array, i: Array, organ: Array, look: Callable[[tuple], Array], tiles: tuple, every: int
    ) -> tuple[Array, Array]:
        """Whether object i breaks a rule, and how many voxels it holds."""

        def visit(start: tuple, found: tuple) -> tuple:
            reached, pressed, lost, voxels = found
            mask = look(start)
            inside, deep = (mask & 1) != 0, (mask & 2) != 0
            old = lax.dynamic_slice(planes, (0, 0, *start), (*planes.shape[:2], *self.plan.tile))
            old = old[..., ::every, ::every, ::every]
            reached |= jnp.where(inside, old[1], 0) | jnp.where(deep, old[0], 0)
            pressed |= jnp.where(deep, old[1], 0)
            if self.holds:
                lost |= jnp.where(inside, ~old[2], 0)
            return reached, pressed, lost, voxels + jnp.sum(inside, dtype=jnp.int32)

        # Voxels of all tiles are laid over each other; the slow step, from many voxels to one word, comes once.
        thinned = tuple(-(-edge // every) for edge in self.plan.tile)
        none = jnp.zeros((self.words, *thinned), jnp.uint32)
        *bits, voxels = self._each(tiles, visit, (none, none, none, jnp.int32(0)))
        reached, pressed, lost = (lax.reduce(b, np.uint32(0), lax.bitwise_or, (1, 2, 3)) for b in bits)
        disjoint, touching, within = self._rules(i, organ)
        return jnp.any((reached & disjoint) | (pressed & touching) | (lost & within) != 0), voxels

    def add(self, planes: Array, i: Array, masks: Array, tiles: tuple) -> Array:
        """The planes with object i."""
        which = (i % BITS).astype(jnp.uint32)

        def visit(start: tuple, planes: Array) -> Array:
            mask = lax.dynamic_slice(masks, start, self.plan.tile).astype(jnp.uint32)
            corner = (0, i // BITS, *start)
            old = lax.dynamic_slice(planes, corner, (planes.shape[0], 1, *self.plan.tile))
            kinds = jnp.arange(planes.shape[0], dtype=jnp.uint32).reshape(-1, 1, 1, 1, 1)
            return lax.dynamic_update_slice(planes, old | (((mask >> kinds) & 1) << which), corner)

        return self._each(tiles, visit, planes)

    def _each(self, tiles: tuple, visit: Callable[[tuple, Any], Any], carry: Any) -> Any:
        """Carry something through all tiles; ``visit`` is given the index (z, y, x) of a tile's first voxel.

        One loop for each thing to be done: what is read in a loop that also writes it, XLA copies as a whole, and what
        several results of a loop need, it computes for each of them.
        """
        first, steps = tiles
        body = lambda step, carry: visit(self.plan.start(first, steps, step), carry)  # noqa: E731
        return lax.fori_loop(0, jnp.prod(steps), body, carry)

    def tiles(self, shape: Shape, inverse: Float[Array, "3 4"]) -> tuple[Array, Array]:
        """First tile (z, y, x) and number of tiles along each axis that an organ can touch."""
        box = shape.bounds(LAYER if self.holds else 0.0).mapped(invert(inverse))
        return self.grid.tiles(box, self.plan.tile)

    def _rules(self, i: Array, organ: Int[Array, " n"]) -> list[Array]:
        """Bits of the objects before i that must not overlap it, that must not press into it, that must hold it."""
        before = jnp.arange(organ.size) < i
        kinds = jnp.asarray(self.bank.relation())[organ[i], organ]
        return [_bits(before & (kinds == kind)) for kind in (DISJOINT, TOUCHING, INSIDE)]


def _bits(flags: Array) -> Array:
    """Truth values as words of `BITS` bits."""
    padded = jnp.pad(flags, (0, -flags.size % BITS)).reshape(-1, BITS)
    return jnp.sum(padded.astype(jnp.uint32) << jnp.arange(BITS, dtype=jnp.uint32), axis=1, dtype=jnp.uint32)
