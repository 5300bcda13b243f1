"""Shapes that grow like tissue: trees, organs, cells and fractals, a random family each.

`tissue` is their vocabulary. Each function draws a member of a family: pure JAX, one key, lengths in voxels or as
parts of the size, and can be batched and differentiated like any shape.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Shape
from fdif_jax.shapes.displacements import DISPLACEMENTS
from fdif_jax.shapes.mappers import MAPPERS
from fdif_jax.shapes.tissue.cells import cell_cluster, tumour
from fdif_jax.shapes.tissue.fractals import mandelbulb, menger_sponge
from fdif_jax.shapes.tissue.organs import folded_surface, lobulated_organ, trabecular_bone
from fdif_jax.shapes.tissue.trees import airway_tree, gland, vessel_tree
from fdif_jax.vocabulary.user_files import build, describe
from fdif_jax.vocabulary.vocabulary import USUAL, Family, Range, Vocabulary

__all__ = [
    "airway_tree",
    "cell_cluster",
    "folded_surface",
    "gland",
    "lobulated_organ",
    "mandelbulb",
    "menger_sponge",
    "tissue",
    "trabecular_bone",
    "tumour",
    "vessel_tree",
]

SIZE = Range(0.2, 0.38)  # half the greatest edge of a member over the grid's least edge


def _family(grown: Callable[..., Shape], category: str, **ranges: Range) -> Family:
    """A family whose ranges are a size over the grid's least edge, and what else the function takes."""
    return Family(grown.__name__, functools.partial(_draw, grown), {"size": SIZE, **ranges}, category)


def _draw(grown: Callable[..., Shape], key: jax.Array, ranges: Mapping[str, Range], grid: Grid) -> Shape:
    range_key, grow_key = jax.random.split(key)
    fractions = jax.random.uniform(range_key, (len(ranges),))
    # By name: a table of ranges that is an argument of a jitted function comes sorted.
    drawn: dict[str, Any] = {
        name: ranges[name].draw(fraction) for name, fraction in zip(sorted(ranges), fractions, strict=True)
    }
    return grown(grow_key, drawn.pop("size") * min(grid), **drawn)


def _build(name: str, params: Mapping[str, Any]) -> Shape:
    return build(_structure(name), params, name)


@functools.cache
def _structure(name: str) -> Any:
    """A member of a family without its numbers."""
    return jax.eval_shape(lambda: tissue.family(name).sample(jax.random.key(0), USUAL))


tissue = Vocabulary(
    (
        _family(
            vessel_tree,
            "tree",
            slenderness=Range(4.5, 6.5),
            asymmetry=Range(0.5, 0.85),
            tortuosity=Range(0.1, 0.3),
        ),
        _family(airway_tree, "tree", slenderness=Range(4.5, 6.0), asymmetry=Range(0.6, 0.9)),
        _family(gland, "tree", berry=Range(2.0, 2.8)),
        _family(folded_surface, "organ", gyrus=Range(0.22, 0.32), depth=Range(0.2, 0.32)),
        _family(trabecular_bone, "organ", spacing=Range(0.28, 0.42), density=Range(0.4, 0.6)),
        _family(lobulated_organ, "organ", cleft=Range(0.06, 0.16)),
        _family(cell_cluster, "cells", membrane=Range(0.13, 0.2), nucleus=Range(0.25, 0.4)),
        _family(tumour, "cells", necrosis=Range(0.55, 0.75)),
        _family(menger_sponge, "fractal", hole=Range(0.28, 0.38)),
        _family(mandelbulb, "fractal", turn=Range(0.0, 0.6)),
    ),
    DISPLACEMENTS,
    MAPPERS,
    _build,
    lambda name, shape: describe(shape),
)
