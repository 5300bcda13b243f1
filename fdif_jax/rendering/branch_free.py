"""Rendering on an accelerator without branches: every object on the whole grid, every structure computed, one kept.

An accelerator waits for the host at every branch, and XLA makes one kernel of what has none. For recipes of a few
structures, and for what the tile kernel cannot render (sampled grids, partial volume), this is far faster than the
scan with switches: on an H200 200 to 300 times, though it computes all structures where one is needed.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from fdif_jax.rendering.distances import (
    REACH,
    Edges,
    painted_last,
    painted_over,
    shown,
    unpainted,
    voxels_of_units,
)
from fdif_jax.rendering.renderer import (
    BITS,
    INTENSITY_TOP,
    Renderer,
    Rendering,
    Table,
    in_painting_order,
    whole_volumes,
)


@dataclasses.dataclass(frozen=True)
class BranchFree:
    """Renders batches of tables as ``renderer`` would; with partial volume, slopes also cross the borders of tiles."""

    renderer: Renderer

    def intensities(self, tables: Table) -> tuple[Float[Array, "B D H W"], UInt[Array, "B *tasks D H W"]]:
        """Images and labels of tables with a leading batch axis; see `render`."""
        return self.render(tables)[:2]

    def render(self, tables: Table) -> Rendering:
        """Scenes of tables with a leading batch axis, as `Renderer.render` gives each."""
        return jax.vmap(self._one)(tables)

    def _one(self, table: Table) -> Rendering:
        renderer, p = self.renderer, self.renderer.grid.points()
        mappers, objects = renderer.mapper_functions(), table.branch.shape[0]

        def draw(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
            image, planes = carry
            d = renderer.distance(table, i, p)
            inside = (d <= 0) & (i < table.number)
            intensity = lax.switch(table.mapper[i], mappers, d)
            bit = inside.astype(jnp.uint32) << (i % BITS).astype(jnp.uint32)
            planes = planes.at[i // BITS].set(planes[i // BITS] | bit)
            return (image + jnp.where(i < table.number, intensity, 0), planes), jnp.sum(
                inside, dtype=jnp.int32
            )

        empty = jnp.zeros(renderer.grid), jnp.zeros((-(-objects // BITS), *renderer.grid), jnp.uint32)
        (image, planes), volumes = lax.scan(draw, empty, jnp.arange(objects))
        painted = renderer.paint(planes, whole_volumes(table, volumes), table.label)
        return Rendering(jnp.clip(image, 0, INTENSITY_TOP), *painted, volumes)

    def distances(
        self, tables: Table, volumes: Int[Array, "B n"], edges: Edges | None = None
    ) -> Float[Array, "B 2 D H W"]:
        """Distances in scenes of tables with a leading batch axis, as `Renderer.distances` gives each."""
        return jax.vmap(self._distances)(tables, volumes, edges)

    def _distances(self, table: Table, volumes: Array, edges: Edges | None) -> Array:
        renderer, p = self.renderer, self.renderer.grid.points()
        table = in_painting_order(table, volumes)
        units = voxels_of_units(table.inverse)

        def draw(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
            d = units[i] * renderer.distance(table, i, p)
            if edges is not None:
                d = shown(d, edges.cut, renderer.grid.spacing)
            return painted_over(*carry, jnp.where(i < table.number, d, REACH)), None

        own, boundary = unpainted(renderer.grid, edges)
        painted, _ = lax.scan(draw, (own, boundary), jnp.arange(len(volumes)))
        return painted_last(jnp.stack(painted), edges)
