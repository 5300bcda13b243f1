"""Trees that grow by bifurcation: vessels, airways, glands.

Source: Murray, "The physiological principle of minimum work", 1926: the cubes of the daughters' radii make up that of
their parent's, and the angles between them are those of least work.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
        return jnp.asarray(1 / length(1.0, (self.second - self.first) / extent))

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
        return Box(
            jnp.min(lower, axis=0), jnp.max(jnp.maximum(self.starts + first, self.ends + second), axis=0)
        )


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


def grow(luck: Float[Array, "generations most 6"], growth: Growth) -> Branches:
    """A tree whose trunk of radius 1 begins at the origin, along -z; the daughters of branch i are 2i + 1 and 2i + 2.

    Args:
        luck: six numbers, 0 … 1, of each branch of a generation, as if all were as many as the last one's.
        growth: how it grows.
    """
    generations, most, _ = luck.shape
    down, aside, origin = jnp.asarray([0.0, 0.0, -1.0]), jnp.asarray([1.0, 0.0, 0.0]), jnp.zeros(3)
    one = Branches(origin, growth.slenderness * down, down, aside, jnp.ones(()))
    trunk: Branches = jax.tree.map(lambda value: jnp.broadcast_to(value, (most, *value.shape)), one)

    def fork(parents: Branches, luck: Array) -> tuple[Branches, Branches]:
        first = jax.tree.map(lambda value: value[: most // 2], parents)
        daughters = _daughters(luck, growth, first)
        return daughters, daughters

    _, others = lax.scan(fork, trunk, luck[1:])
    # Of each generation only the first are there.
    there = [(g - 1) * most + i for g in range(1, generations) for i in range(2**g)]
    places = np.asarray(there, np.int32)
    return jax.tree.map(
        lambda own, value: jnp.concatenate([own[:1], value.reshape(-1, *own.shape[1:])[places]]),
        trunk,
        others,
    )


def _daughters(luck: Float[Array, "n 6"], growth: Growth, parents: Branches) -> Branches:
    """Two branches for each of n / 2 parents, the larger one first."""
    ratio = growth.asymmetry + (1 - growth.asymmetry) * luck[::2, 0]
    stray = growth.jitter * (2 * luck[:, 1:] - 1)
    larger = (1 + ratio**3) ** (-1 / 3)
    fractions = jnp.stack([larger, ratio * larger], axis=1)  # of the parent's radius; their cubes' sum is 1
    cosine = (1 + fractions**4 - fractions[:, ::-1] ** 4) / (2 * fractions**2)
    sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 0.0)) * jnp.asarray([1.0, -1.0])
    way = cosine[..., None] * parents.direction[:, None] + sine[..., None] * parents.normal[:, None]
    direction = unit(way.reshape(-1, 3) + stray[:, :3])
    radius = (fractions * parents.radius[:, None]).reshape(-1)
    extent = growth.slenderness * radius * (1 + stray[:, 3])
    starts, before = jnp.repeat(parents.ends, 2, axis=0), jnp.repeat(parents.normal, 2, axis=0)
    across = unit(jnp.cross(direction, before))
    angle = (growth.turn + jnp.pi * stray[:, 4])[:, None]
    normal = across * jnp.sin(angle) + jnp.cross(across, direction) * jnp.cos(angle)
    return Branches(starts, starts + extent[:, None] * direction, direction, normal, radius)


def unit(vectors: Float[Array, "*m 3"]) -> Float[Array, "*m 3"]:
    """Vectors of length 1."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def _rods(luck: Float[Array, "n 4"], growth: Growth, whole: Branches, pieces: int) -> Segments:
    """The branches in so many pieces each, bent where these meet; how, are four numbers of each, 0 … 1."""
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
    ducts, tree = _grown("gland", duct_key, growth, generations, 1)
    ends: Branches = jax.tree.map(lambda value: value[len(value) // 2 :], tree)
    radius = number("gland", "berry", berry, above=0) * jnp.mean(ends.radius)
    each = count("gland", "acini", acini, least=1)
    luck = jax.random.uniform(berry_key, (ends.radius.size, each, 4), minval=-1.0)
    around = unit(luck[..., :3] + 0.4 * ends.direction[:, None])
    radii = (radius * (1 + 0.2 * luck[..., 3])).reshape(-1)
    centres = (ends.ends[:, None] + 1.4 * radius * around).reshape(-1, 3)
    starts, finish = (jnp.concatenate([at, centres]) for at in (ducts.starts, ducts.ends))
    balls = jnp.concatenate([ducts.first, radii])
    return fitted(Segments(starts, finish, balls, balls), number("gland", "size", size, above=0))


def _growth(of: str, slenderness: Scalar, asymmetry: Scalar) -> tuple[Scalar, Scalar]:
    return number(of, "slenderness", slenderness, above=0), number(of, "asymmetry", asymmetry, above=0)


def _grown(
    of: str, key: jax.Array, growth: Growth, generations: int, pieces: int
) -> tuple[Segments, Branches]:
    """The rods of a tree, and its branches."""
    steps = count(of, "generations", generations, least=1)
    most = 2 ** max(steps - 1, 1)
    luck = jax.random.uniform(key, (steps, most, 10))
    tree = grow(luck[..., :6], growth)
    own = luck[..., 6:].reshape(-1, 4)[: len(tree.radius)]
    return _rods(own, growth, tree, count(of, "pieces", pieces, least=1)), tree
