"""A picture of a family: some of its members, lit, and a slice through each with lines of equal distance."""

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fdif_jax.extras import needing
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.sdf.shape import Box, Shape
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import Samples
from fdif_jax.viewing.tracing import trace
from fdif_jax.viewing.view_pictures import colour_of, cut_open
from fdif_jax.viewing.viz import save_figure
from fdif_jax.vocabulary.vocabulary import Family

with needing("pictures"):
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

_SHOWN = 6
_PIXELS, _RESOLUTION = 200, 48  # of a lit member, and samples an axis to find where it is
_BETWEEN = 4  # voxels between two lines of equal distance
_INSIDE, _OUTSIDE, _SURFACE = "tab:blue", "0.7", "black"


def save_sheet(family: Family, grid: Grid, path: str | os.PathLike, seed: int = 0) -> None:
    """Write a PNG of random members of a family: above lit, below in the slice z = 0 of a grid they are sized for."""

    @jax.jit
    def drawn(keys: jax.Array) -> tuple[Shape, list[jax.Array]]:
        p = grid.tile((grid.depth // 2, 0, 0), (1, grid.height, grid.width))

        def one(key: jax.Array) -> tuple[Shape, list[jax.Array]]:
            shape = family.sample(key, grid)
            shown = [shape, *(shape.regions if isinstance(shape, Parts) else ())]
            return shape, [jnp.broadcast_to(of(p), (1, *grid[1:]))[0] for of in shown]

        return lax.map(one, keys)

    shapes, slices = drawn(jax.random.split(jax.random.key(seed), _SHOWN))
    figure = Figure(figsize=(2.2 * _SHOWN, 4.8), layout="constrained")
    figure.suptitle(
        f"{family.name}: members of seed {seed}; slices z = 0 of a grid {' × '.join(map(str, grid))}, "
        f"a line every {_BETWEEN} voxels of distance",
        fontsize=10,
    )
    for i, (lit, flat) in enumerate(figure.subplots(2, _SHOWN).T):
        _draw_lit(lit, jax.tree.map(lambda leaf, i=i: leaf[i], shapes), grid, family.name)
        whole, *regions = (np.asarray(planes[i]) for planes in slices)
        _draw_slice(flat, whole, regions, grid)
    save_figure(figure, path)


def _draw_lit(panel: Axes, shape: Shape, grid: Grid, name: str) -> None:
    half = np.asarray(grid.edges, np.float32) / 2
    samples = Samples.of(shape, Box(-half, half), _RESOLUTION, name)  # type: ignore[arg-type]
    panel.axis("off")
    if samples is None:
        panel.text(0.5, 0.5, "no inside", ha="center", va="center")
        return
    camera = Camera.around(samples.outline)
    if isinstance(shape, Parts):
        parts = [(part, colour_of(shape.names.index(name))) for name, part in samples.parts().items()]
        solids = cut_open(parts, camera)
    else:
        solids = [samples.solid(colour_of(0))]
    panel.imshow(trace(solids, camera, _PIXELS).colours)


def _draw_slice(panel: Axes, d: np.ndarray, regions: Sequence[np.ndarray], grid: Grid) -> None:
    panel.set(xticks=[], yticks=[], aspect="equal")
    x, y = (np.arange(n) - n // 2 for n in (grid.width, grid.height))
    lowest, highest = np.floor(d.min() / _BETWEEN), np.ceil(d.max() / _BETWEEN)
    levels = np.arange(lowest, highest + 1) * _BETWEEN
    colours = [_INSIDE if level < 0 else _OUTSIDE for level in levels]
    panel.contour(x, y, d, levels=levels, colors=colours, linewidths=0.6, linestyles="solid")
    filled = [(of, colour_of(i), 0.8) for i, of in enumerate(regions)] or [(d, to_rgb(_INSIDE), 0.35)]
    for of, colour, alpha in filled:
        if of.min() < 0 < of.max():
            panel.contourf(x, y, of, levels=[of.min(), 0], colors=[colour], alpha=alpha)
    if d.min() < 0 < d.max():
        panel.contour(x, y, d, levels=[0], colors=_SURFACE, linewidths=1.6)
