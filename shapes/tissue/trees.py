"""Trees that grow by bifurcation: vessels, airways, glands.

Source: Murray, "The physiological principle of minimum work", 1926: the cubes of the daughters' radii make up that of
their parent's, and the angles between them are those of least work.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.sdf.algebra import onion, round
from fdif_jax.sdf.arguments import count, number
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, length, node
from fdif_jax.shapes.solids import half_space
from fdif_jax.shapes.tissue.nearest import nearest


@node
class Segments(Shape):
    """Rods with round ends from ``starts`` to ``ends`` ``(n, 3)``, their radii from ``first`` to ``second`` ``(n,)``.

    A rod of no length is a ball. True outside rods of even radius; where it changes a bound near their ends.
    """

    starts: Float[Array, "n 3"]
    ends: Float[Array, "n 3"]
    first: Float[Array, " n"]
    second: Float[Array, " n"]

    @property
    def _upright(self) -> Float[Array, " n"]:
        """Cosine of how far the mantle leans; the distance across the axis times it is that to the mantle."""
        extent = jnp.maximum(length(*(self.ends - self.starts).T), 1e-6)
        return 1 / length(1.0, (self.second - self.first) / extent)

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        axes = self.ends - self.starts
        rate = axes / jnp.maximum(jnp.sum(jnp.square(axes), axis=1, keepdims=True), 1e-12)
        numbers = (self.first, self.second - self.first, self._upright)
        rows = jnp.concatenate([self.starts, axes, rate, jnp.stack(numbers, axis=1)], axis=1)
        return nearest(p, rows, _to_rod)[0]

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        grown = (margin / self._upright)[:, None]
        first, second = self.first[:, None] + grown, self.second[:, None] + grown
        lower = jnp.minimum(self.starts - first, self.ends - second)
        return Box(jnp.min(lower, axis=0), jnp.max(jnp.maximum(self.starts + first, self.ends + second), axis=0))


def _to_rod(p: Point, numbers: Sequence[Array]) -> Distance:
    start, axis, rate, (first, growth, upright) = numbers[:3], numbers[3:6], numbers[6:9], numbers[9:]
    offset = [c - s for c, s in zip(p, start, strict=True)]
    t = jnp.clip(offset[0] * rate[0] + offset[1] * rate[1] + offset[2] * rate[2], 0.0, 1.0)
    return (length(*(o - t * a for o, a in zip(offset, axis, strict=True))) - first - t * growth) * upright


class Growth(NamedTuple):
    """How a tree grows.

    Attributes:
        slenderness: length of a branch over its radius.
        asymmetry: least ratio of two daughters' radii; the greatest is 1.
        turn: radians from a fork's plane to the next one's.
        bend: how far the middle of a branch leaves the straight line, over its length.
        jitter: how far directions, lengths and turns stray, as fractions.
    """

    slenderness: Scalar
    asymmetry: Scalar
    turn: Scalar
    bend: Scalar
    jitter: Scalar


class Branches(NamedTuple):
    """The m branches of a generation: where they begin and end ``(m, 3)``, along which direction, and their radii."""

    starts: Float[Array, "m 3"]
    ends: Float[Array, "m 3"]
    direction: Float[Array, "m 3"]
    normal: Float[Array, "m 3"]  # lies in the plane of the fork that a branch ends in
    radius: Float[Array, " m"]


def grow(luck: Float[Array, "branches 6"], growth: Growth) -> list[Branches]:
    """The generations of a tree whose trunk of radius 1 begins at the origin, along -z; 2^k branches in the k-th.

    Args:
        luck: six numbers, 0 … 1, of each of 2^generations - 1 branches.
        growth: how it grows.
    """
    down, aside, trunk = jnp.asarray([[0.0, 0.0, -1.0]]), jnp.asarray([[1.0, 0.0, 0.0]]), jnp.zeros((1, 3))
    tree = [Branches(trunk, growth.slenderness * down, down, aside, jnp.ones(1))]
    for generation in range(1, len(luck).bit_length()):
        first = 2**generation - 1
        parents, own = luck[first // 2 : first, 0], luck[first : 2 * first + 1, 1:]
        # Or XLA would grow the whole tree anew wherever a branch is used.
        tree.append(lax.optimization_barrier(_daughters(parents, 2 * own - 1, growth, tree[-1])))
    return tree


def _daughters(
    ratio: Float[Array, " m"], stray: Float[Array, "n 5"], growth: Growth, parents: Branches
) -> Branches:
    """Two branches for each of m parents, the larger ones first; how one strays are five numbers, -1 … 1."""
    stray = growth.jitter * stray
    ratio = growth.asymmetry + (1 - growth.asymmetry) * ratio
    larger = (1 + ratio**3) ** (-1 / 3)
    fractions = jnp.stack([larger, ratio * larger])  # of the parent's radius; their cubes' sum is 1
    cosine = (1 + fractions**4 - fractions[::-1] ** 4) / (2 * fractions**2)
    sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 0.0)) * jnp.asarray([[1.0], [-1.0]])
    way = cosine[..., None] * parents.direction + sine[..., None] * parents.normal
    direction = _unit(way.reshape(-1, 3) + stray[:, :3])
    radius = (fractions * parents.radius).reshape(-1)
    extent = growth.slenderness * radius * (1 + stray[:, 3])
    starts = jnp.tile(parents.ends, (2, 1))
    across = jnp.cross(direction, jnp.tile(parents.normal, (2, 1)))
    angle = (growth.turn + jnp.pi * stray[:, 4])[:, None]
    normal = _unit(across * jnp.sin(angle) + jnp.cross(across, direction) * jnp.cos(angle))
    return Branches(starts, starts + extent[:, None] * direction, direction, normal, radius)


def _unit(vectors: Float[Array, "*m 3"]) -> Float[Array, "*m 3"]:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def _rods(luck: Float[Array, "n 4"], growth: Growth, tree: Sequence[Branches], pieces: int) -> Segments:
    """The tree's branches in so many pieces each, bent where these meet; how, are four numbers of each, 0 … 1."""
    whole: Branches = jax.tree.map(lambda *parts: jnp.concatenate(parts), *tree)
    extent = jnp.linalg.norm(whole.ends - whole.starts, axis=1)
    bows = growth.bend * extent * (2 * luck.T - 1).reshape(2, 2, -1)  # an arc and an S, to either side
    t = jnp.linspace(0, 1, pieces + 1)[:, None]
    frame = whole.normal, jnp.cross(whole.direction, whole.normal)
    path = whole.starts + t[..., None] * (whole.ends - whole.starts)
    for aside, (arc, s) in zip(frame, bows, strict=True):
        path = path + (arc * jnp.sin(jnp.pi * t) + s * jnp.sin(2 * jnp.pi * t))[..., None] * aside
    radii = jnp.tile(whole.radius, pieces)
    return Segments(path[:-1].reshape(-1, 3), path[1:].reshape(-1, 3), radii, radii)


def fitted(rods: Segments, size: Scalar) -> Segments:
    """The rods, centred, so large that half the longest edge of their box is ``size``."""
    lower, upper = rods.bounds()
    factor = 2 * size / jnp.max(upper - lower)
    starts, ends = ((at - (lower + upper) / 2) * factor for at in (rods.starts, rods.ends))
    return Segments(starts, ends, rods.first * factor, rods.second * factor)


def vessel_tree(
    key: jax.Array,
    size: Scalar,
    *,
    generations: int = 6,
    pieces: int = 2,
    slenderness: Scalar = 5.5,
    asymmetry: Scalar = 0.5,
    tortuosity: Scalar = 0.15,
) -> Segments:
    """Blood vessels: a trunk that forks again and again by Murray's law, its branches tortuous.

    Args:
        key: decides which.
        size: half the longest edge of its box, voxels.
        generations: of branches, the trunk the first: 2^generations - 1 branches.
        pieces: straight pieces of each branch.
        slenderness: length of a branch over its radius.
        asymmetry: least ratio of two daughters' radii, 0 … 1.
        tortuosity: how far branches leave the straight line, over their length.

    Returns:
        A shape. A true distance outside, a bound inside.
    """
    bend = number("vessel_tree", "tortuosity", tortuosity, least=0)
    growth = Growth(*_growth("vessel_tree", slenderness, asymmetry), 1.9, bend, 0.2)
    rods, _ = _grown("vessel_tree", key, growth, generations, pieces)
    return fitted(rods, number("vessel_tree", "size", size, above=0))


def airway_tree(
    key: jax.Array,
    size: Scalar,
    *,
    generations: int = 5,
    slenderness: Scalar = 5.0,
    asymmetry: Scalar = 0.75,
    wall: Scalar = 0.3,
) -> Shape:
    """Airways: a windpipe, open above, and bronchi that fork straight, each fork across the one before; hollow.

    Args:
        key: decides which.
        size: half the longest edge of its box, voxels.
        generations: of branches, the windpipe the first.
        slenderness: length of a branch over its radius.
        asymmetry: least ratio of two daughters' radii, 0 … 1.
        wall: thickness of all walls over the windpipe's radius; bronchi thinner than it are solid.

    Returns:
        A shape. A bound.
    """
    growth = Growth(*_growth("airway_tree", slenderness, asymmetry), jnp.pi / 2, 0.03, 0.06)
    rods, _ = _grown("airway_tree", key, growth, generations, 1)
    rods = fitted(rods, number("airway_tree", "size", size, above=0))
    half = rods.first[0] * number("airway_tree", "wall", wall, above=0) / 2
    return onion(round(rods, -half), half) & half_space("z", rods.starts[0, 2])


def gland(
    key: jax.Array, size: Scalar, *, generations: int = 4, acini: int = 8, berry: Scalar = 2.4
) -> Segments:
    """A gland: ducts that fork by Murray's law, a cluster of round acini at the end of each.

    Args:
        key: decides which.
        size: half the longest edge of its box, voxels.
        generations: of ducts.
        acini: at each of the 2^(generations - 1) ends.
        berry: radius of an acinus over that of the finest ducts.

    Returns:
        A shape. A true distance outside, a bound inside.
    """
    duct_key, berry_key = jax.random.split(key)
    growth = Growth(5.0, 0.7, 1.6, 0.05, 0.15)
    ducts, ends = _grown("gland", duct_key, growth, generations, 1)
    radius = number("gland", "berry", berry, above=0) * jnp.mean(ends.radius)
    each = count("gland", "acini", acini, least=1)
    luck = jax.random.uniform(berry_key, (ends.radius.size, each, 4), minval=-1.0)
    around = _unit(luck[..., :3] + 0.4 * ends.direction[:, None])
    radii = (radius * (1 + 0.2 * luck[..., 3])).reshape(-1)
    centres = (ends.ends[:, None] + 1.4 * radius * around).reshape(-1, 3)
    joined = [jnp.concatenate(pair) for pair in ((ducts.starts, centres), (ducts.ends, centres))]
    balls = jnp.concatenate([ducts.first, radii])
    return fitted(Segments(*joined, balls, balls), number("gland", "size", size, above=0))


def _growth(of: str, slenderness: Scalar, asymmetry: Scalar) -> tuple[Scalar, Scalar]:
    return number(of, "slenderness", slenderness, above=0), number(of, "asymmetry", asymmetry, above=0)


def _grown(of: str, key: jax.Array, growth: Growth, generations: int, pieces: int) -> tuple[Segments, Branches]:
    """The rods of a tree, and its last branches."""
    branches = 2 ** count(of, "generations", generations, least=1) - 1
    luck = jax.random.uniform(key, (branches, 10))
    tree = grow(luck[:, :6], growth)
    return _rods(luck[:, 6:], growth, tree, count(of, "pieces", pieces, least=1)), tree[-1]
