"""Organs: a folded surface, spongy bone, a lobed body."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.sdf.algebra import scale
from fdif_jax.sdf.arguments import count, number
from fdif_jax.sdf.seams import smooth_minimum
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, length, node
from fdif_jax.shapes.solids import half_space
from fdif_jax.shapes.tissue.waves import directions, maze, turned, warped

_WARP = 0.25  # of a maze's period
_MAZE = 9.0  # about the slope of a warped maze of period 1


@node
class Folded(Shape):
    """A ball of ``radius``, furrowed from outside, as a shell of its surface.

    Furrows are where a maze of ``period`` on the ball's surface is near 0, and a plane across the first
    direction; ``width`` wide, ``depth`` deep, their edges rounded by ``rounding`` (all voxels).
    """

    radius: Scalar
    period: Scalar
    width: Scalar
    depth: Scalar
    rounding: Scalar
    shell: Scalar
    axes: Float[Array, "3 4"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        away = length(*p)
        outwards = self.radius / jnp.maximum(away, self.radius / 2)
        q = warped(turned(Point(*(c * outwards for c in p)), self.axes, 1 / self.period), _WARP)
        furrow = jnp.minimum(jnp.abs(maze(q)) * (self.period / _MAZE), jnp.abs(p.x))
        hollow = jnp.maximum(furrow - self.width / 2, self.radius - self.depth - away)
        solid = -smooth_minimum(self.radius - away, hollow, self.rounding)
        return jnp.abs(solid + self.shell / 2) - self.shell / 2

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.radius + margin
        return Box.around(reach, reach, reach)


@node
class Spongy(Shape):
    """Struts of a maze within an ellipsoid, denser towards its lower end (-z) and its surface, under a thin cortex.

    ``period`` of the maze, ``cortex`` in voxels; ``dense`` and ``sparse`` are the fields up to which the maze is bone.
    """

    halves: Float[Array, "3"]
    period: Scalar
    cortex: Scalar
    dense: Scalar
    sparse: Scalar
    axes: Float[Array, "3 4"]

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        x, y, z = (c / half for c, half in zip(p, self.halves, strict=True))
        hull = (length(x, y, z) - 1) * jnp.min(self.halves)
        q = warped(turned(p, self.axes, 1 / self.period), _WARP)
        density = jnp.clip(0.5 - 0.5 * z, 0.0, 1.0)
        level = self.sparse + (self.dense - self.sparse) * density
        struts = (maze(q) - level) * (self.period / _MAZE)
        return jnp.maximum(hull, jnp.minimum(struts, -hull - self.cortex))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        half = self.halves * (1 + margin / jnp.min(self.halves))
        return Box(-half, half)


@node
class Lobed(Shape):
    """Balls about ``centres`` ``(n, 3)`` of ``radii``, which blend into each other over ``rounding`` voxels."""

    centres: Float[Array, "n 3"]
    radii: Float[Array, " n"]
    rounding: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        far = jnp.full(jnp.broadcast_shapes(*map(jnp.shape, p)), 1e6, jnp.float32)

        def joined(d: Array, ball: tuple[Array, Array]) -> tuple[Array, None]:
            centre, radius = ball
            to = length(*(c - at for c, at in zip(p, centre, strict=True))) - radius
            return jnp.asarray(smooth_minimum(d, to, self.rounding)), None

        return lax.scan(joined, far, (self.centres, self.radii))[0]

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        reach = self.radii[:, None] + margin + self.rounding  # all blends together sag by less
        return Box(jnp.min(self.centres - reach, axis=0), jnp.max(self.centres + reach, axis=0))


def _lengths(of: str, size: Scalar, **fractions: Scalar) -> list[Scalar]:
    """Arguments that are fractions of the size, checked, as lengths."""
    return [number(of, name, fraction, above=0) * size for name, fraction in fractions.items()]


def folded_surface(
    key: jax.Array, size: Scalar, *, gyrus: Scalar = 0.27, depth: Scalar = 0.28, shell: Scalar = 0.11
) -> Shape:
    """A folded sheet as the brain's cortex: gyri between furrows that wind over a ball, in two halves; hollow within.

    Args:
        key: decides which.
        size: half its greatest edge, voxels.
        gyrus: width of a gyrus over ``size``.
        depth: of the furrows over ``size``.
        shell: thickness of the sheet over ``size``.

    Returns:
        A shape. Near a distance; in the walls of furrows it grows up to 3.5 times as fast as one.
    """
    frame_key, form_key = jax.random.split(key)
    size = number("folded_surface", "size", size, above=0)
    gyrus, depth, shell = _lengths("folded_surface", size, gyrus=gyrus, depth=depth, shell=shell)
    factors = jnp.asarray([0.8, 1.0, 0.8]) + jnp.asarray([0.1, 0.0, 0.1]) * jax.random.uniform(form_key, (3,))
    form = Folded(size, 2 * gyrus, 0.15 * gyrus, depth, 0.6 * gyrus, shell, directions(frame_key))
    return scale(form, factors)


def trabecular_bone(
    key: jax.Array, size: Scalar, *, spacing: Scalar = 0.35, cortex: Scalar = 0.07, density: Scalar = 0.5
) -> Shape:
    """Spongy bone: struts, denser towards one end, in an egg-shaped hull with a thin cortex, sawn open above.

    Args:
        key: decides which.
        size: half its greatest edge, voxels.
        spacing: of the struts over ``size``.
        cortex: thickness of the hull's wall over ``size``.
        density: part of the lower end that is bone, 0 … 1; the upper end has about a third of it.

    Returns:
        A shape. Near a distance; where the maze is steepest it grows up to 2.5 times as fast as one.
    """
    frame_key, form_key = jax.random.split(key)
    size = number("trabecular_bone", "size", size, above=0)
    spacing, cortex = _lengths("trabecular_bone", size, spacing=spacing, cortex=cortex)
    density = number("trabecular_bone", "density", density, above=0)
    across = jax.random.uniform(form_key, (2,), minval=0.7, maxval=0.95)
    halves = size * jnp.append(across, 1.0)
    dense, sparse = 2.6 * (density - 0.5), 2.6 * (density / 3 - 0.5)
    return Spongy(halves, spacing, cortex, dense, sparse, directions(frame_key)) & half_space(
        "z", 0.45 * size
    )


def lobulated_organ(key: jax.Array, size: Scalar, *, lobes: int = 20, cleft: Scalar = 0.08) -> Shape:
    """A lobulated organ, as a foetal kidney or a pancreas: a bent body all around which lobes bulge.

    Args:
        key: decides which.
        size: half its greatest edge, voxels, about.
        lobes: how many.
        cleft: over how much of ``size`` neighbouring lobes blend.

    Returns:
        A shape. A bound.
    """
    bend_key, place_key, size_key = jax.random.split(key, 3)
    size = number("lobulated_organ", "size", size, above=0)
    n = count("lobulated_organ", "lobes", lobes, least=1)
    (cleft,) = _lengths("lobulated_organ", size, cleft=cleft)
    along = jnp.linspace(-1.0, 1.0, n)
    turn = 2.4 * jnp.arange(n) + jax.random.uniform(bend_key, (), maxval=6.3)
    stray = jax.random.uniform(place_key, (3, n), minval=-0.05, maxval=0.05)
    thick = jnp.sqrt(1 - 0.75 * along**2)
    bow = 0.3 * (along**2 - 0.4)
    centres = jnp.stack(
        [0.3 * thick * jnp.cos(turn) + bow, 0.22 * thick * jnp.sin(turn), 0.7 * along], axis=1
    )
    radii = (0.3 * thick * jax.random.uniform(size_key, (n,), minval=0.8, maxval=1.15)) * size
    return Lobed((centres + stray.T) * size, radii, cleft)
