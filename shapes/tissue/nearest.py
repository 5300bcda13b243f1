"""The nearest of many parts: one loop, however many there are, that leaves out parts which are near nowhere.

Points are cut into small blocks. In a block only those parts count that come as near its centre as the nearest does,
give or take the block's diameter; of a tree of a hundred segments that is a handful. The result is that of all parts.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.sdf.shape import Distance, Point, length

_EDGE = 8  # of a block along each axis at most, points
_AT_ONCE = 4  # parts of a block that one step of the loop computes

# The distance to a part from its numbers; it must not change faster than its points move.
ToPart = Callable[[Point, list[Array]], Distance]


def nearest(p: Point, parts: Float[Array, "n k"], distance: ToPart, number: int = 1) -> list[Distance]:
    """The least distances from points to ``parts``, the least one first.

    Args:
        p: where.
        parts: the k numbers of every part.
        distance: ``distance(p, numbers)`` of points and k arrays that broadcast against them.
        number: how many distances, 1 or 2; at most n.
    """
    shape = jnp.broadcast_shapes(*map(jnp.shape, p))
    cut, join = _blocks(shape)
    blocks = [cut(jnp.broadcast_to(jnp.asarray(c, jnp.float32), shape)) for c in p]
    which, counts = _near(lax.stop_gradient(blocks), lax.stop_gradient(parts), distance, number)

    def step(least: list[Array], first: Array) -> tuple[list[Array], None]:
        def nearer(least: list[Array]) -> list[Array]:
            for slot in range(_AT_ONCE):
                there = first + slot < counts
                place = jnp.sum(
                    jnp.where(which == (first + slot)[None, None], jnp.arange(len(parts)), 0), axis=1
                )
                # Or it would be looked up anew at every point.
                numbers = lax.optimization_barrier(parts[place])
                d = distance(Point(*blocks), [numbers[:, k, None] for k in range(parts.shape[1])])
                least = _merged(least, jnp.where(there[:, None], d, jnp.inf))
            return least

        return lax.cond(first < jnp.max(counts), nearer, lambda least: least, least), None

    far = [jnp.full(blocks[0].shape, jnp.inf, jnp.float32)] * number
    found, _ = lax.scan(step, far, jnp.arange(0, len(parts), _AT_ONCE))
    return [join(d) for d in found]


def _merged(least: list[Array], d: Array) -> list[Array]:
    """The least distances, one more considered."""
    if len(least) == 1:
        return [jnp.minimum(least[0], d)]
    return [jnp.minimum(least[0], d), jnp.minimum(least[1], jnp.maximum(least[0], d))]


def _near(
    blocks: list[Array], parts: Float[Array, "n k"], distance: ToPart, number: int
) -> tuple[Array, Array]:
    """The places of parts in each block's list of near ones (blocks, n), -1 for the others, and the lists' lengths."""
    centre = [(jnp.min(c, axis=1) + jnp.max(c, axis=1)) / 2 for c in blocks]
    radius = jnp.max(length(*(c - m[:, None] for c, m in zip(blocks, centre, strict=True))), axis=1)
    numbers = [parts[None, :, k] for k in range(parts.shape[1])]
    d = distance(Point(*(c[:, None] for c in centre)), numbers)
    last = jnp.min(d, axis=1, keepdims=True)
    if number == 2:
        last = jnp.min(jnp.where(d > last, d, jnp.inf), axis=1, keepdims=True)
    near = d <= last + 2.001 * radius[:, None] + 1e-4  # rounding
    return jnp.where(near, jnp.cumsum(near, axis=1) - 1, -1), jnp.sum(near, axis=1)


def _blocks(shape: tuple[int, ...]) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """How an array of this shape is cut into rows of a block each, and put together again."""
    edges = [max(n for n in range(1, _EDGE + 1) if size % n == 0) for size in shape]
    split = [n for size, edge in zip(shape, edges, strict=True) for n in (size // edge, edge)]
    outer, inner = list(range(0, len(split), 2)), list(range(1, len(split), 2))
    moved = [split[axis] for axis in (*outer, *inner)]
    back = [
        axis
        for pair in zip(range(len(shape)), range(len(shape), 2 * len(shape)), strict=True)
        for axis in pair
    ]

    def cut(values: Array) -> Array:
        return values.reshape(split).transpose((*outer, *inner)).reshape(-1, math.prod(edges))

    def join(rows: Array) -> Array:
        return rows.reshape(moved).transpose(back).reshape(shape)

    return cut, join
