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
from fdif_jax.sdf.shape import Point, Scalar, Shape, Union
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

    Raises:
        FdifError: an unknown class, or a parameter that is missing, unknown or impossible.
    """
    if SEPARATOR not in name:
        return vocabulary.build(vocabulary.family(name).name, params)
    if not isinstance(params, Mapping) or set(params) != {"smooth", "first", "second"}:
        raise FdifError(f"{name}: parameters of a union are a table with the keys smooth, first, second")
    one, other = (
        _moved(vocabulary, part, params[key], f"{name}, {key}")
        for key, part in zip(("first", "second"), _parts(name), strict=True)
    )
    smooth: Scalar = params["smooth"]
    if isinstance(smooth, bool) or not isinstance(smooth, (int, float)) or not 0 < smooth < np.inf:
        raise FdifError(f"{name}: 'smooth' must be a number above 0, not {smooth!r}")
    return Union(one, other, float(smooth))


def _moved(vocabulary: Vocabulary, name: str, data: Any, where: str) -> Affine:
    if not isinstance(data, Mapping) or set(data) != {"params", "inverse"}:
        raise FdifError(f"{where}: must be a table with the keys params and inverse")
    try:
        inverse = np.asarray(data["inverse"], np.float32)
    except (TypeError, ValueError):
        inverse = np.zeros(0, np.float32)
    if inverse.shape != (3, 4) or not np.isfinite(inverse).all():
        raise FdifError(f"{where}: inverse must be a 3×4 matrix of finite numbers")
    return Affine(vocabulary.build(vocabulary.family(name).name, data["params"]), jnp.asarray(inverse))


def _parts(name: str) -> tuple[str, str]:
    parts = name.split(SEPARATOR)
    if len(parts) != 2 or not all(parts):
        raise FdifError(f"class {name!r}: a union is named FIRST{SEPARATOR}SECOND")
    return parts[0], parts[1]
