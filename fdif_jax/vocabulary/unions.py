"""Combined unions: classes whose members are smooth unions of two other classes' members. Source: FDIF.

The name of such a class is ``first|second``. It needs no entry in a vocabulary: its parts have them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.sdf.affine import turned
from fdif_jax.sdf.algebra import Affine, transform
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point, Shape, Union
from fdif_jax.vocabulary.parameters import Reader
from fdif_jax.vocabulary.vocabulary import Family, Range, Vocabulary

SEPARATOR = "|"
SHRINK = 0.7
SHIFT = Range(0.1, 0.7)
SMOOTH = Range(0.01, 0.15)
_MESH = 24  # points an axis on which the depth of a shape is looked for


def combined(first: Family, second: Family) -> Family:
    """The family of smooth unions of members of two families.

    Both are turned at random about the origin and shrunk to 0.7; the second is shifted along one axis by
    U(.1, .7)·(sum of their depths)·0.7; the smoothness is U(.01, .15) of the shortest edge. The distance is not
    scaled back when shrinking, as published, so it is 1/0.7 of the true one.
    """

    def draw(key: jax.Array, ranges: Mapping[str, Range], grid: Grid) -> Shape:
        keys = jax.random.split(key, 3)
        parts = [family.sample(k, grid) for family, k in zip((first, second), keys, strict=False)]
        angle_key, axis_key, shift_key, smooth_key = jax.random.split(keys[2], 4)
        turns = jax.vmap(turned)(jax.random.uniform(angle_key, (2, 3), minval=-jnp.pi, maxval=jnp.pi))
        depth = sum(_depth(part, grid) for part in parts)
        distance = SHIFT.draw(jax.random.uniform(shift_key)) * depth * SHRINK
        offsets = jnp.zeros((2, 3)).at[1, jax.random.randint(axis_key, (), 0, 3)].set(distance)
        one, other = (
            transform(part, jnp.concatenate([SHRINK * turn, offset[:, None]], axis=1))
            for part, turn, offset in zip(parts, turns, offsets, strict=True)
        )
        return Union(one, other, SMOOTH.draw(jax.random.uniform(smooth_key)) * min(grid))

    return Family(f"{first.name}{SEPARATOR}{second.name}", draw, category="union")


def _depth(shape: Shape, grid: Grid) -> Float[Array, ""]:
    """The deepest distance inside a shape, on a coarse mesh of the part of the grid where the shape can be."""
    lower, upper = shape.bounds()
    reach = jnp.asarray(grid.edges, jnp.float32) / 2
    lower, upper = jnp.maximum(lower, -reach), jnp.minimum(upper, reach)
    x, y, z = (jnp.linspace(lo, hi, _MESH) for lo, hi in zip(lower, upper, strict=True))
    distances = shape(Point(x[None, None, :], y[None, :, None], z[:, None, None]))
    return jnp.maximum(-distances.min(), 0)


def describe(vocabulary: Vocabulary, name: str, shape: Any) -> dict[str, Any]:
    """A scene document's parameters of a shape of the class ``name``, which may be a union."""
    if not isinstance(shape, Union):
        return vocabulary.describe(name, shape)
    parts: tuple[Any, Any] = (shape.first, shape.second)
    smooth: Any = shape.smooth
    return {
        "smooth": float(smooth),
        **{
            key: {"params": vocabulary.describe(part, moved.shape), "inverse": np.asarray(moved.inverse).tolist()}
            for key, part, moved in zip(("first", "second"), _parts(name), parts, strict=True)
        },
    }  # fmt: skip


def build(vocabulary: Vocabulary, name: str, params: Any) -> Shape:
    """The shape of the class ``name``, which may be a union, from a scene document's parameters.

    FdifError for an unknown class, or a parameter that is missing, unknown or impossible.
    """
    if SEPARATOR not in name:
        return vocabulary.build(vocabulary.family(name).name, params)
    reader = Reader(params, name)
    one, other = (
        _moved(vocabulary, part, reader.inner(key))
        for key, part in zip(("first", "second"), _parts(name), strict=True)
    )
    smooth = reader.positive("smooth")
    reader.finish()
    return Union(one, other, smooth)


def _moved(vocabulary: Vocabulary, name: str, reader: Reader) -> Affine:
    shape = vocabulary.build(vocabulary.family(name).name, reader.get("params"))
    inverse = jnp.asarray(reader.numbers("inverse", (3, 4)), jnp.float32)
    reader.finish()
    return Affine(shape, inverse)


def _parts(name: str) -> tuple[str, str]:
    parts = name.split(SEPARATOR)
    if len(parts) != 2 or not all(parts):
        raise FdifError(f"class {name!r}: a union is named FIRST{SEPARATOR}SECOND")
    return parts[0], parts[1]
