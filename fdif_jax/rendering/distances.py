"""Distances as targets: how far every voxel is from a surface, from what a renderer computes anyway.

Objects are painted one over another. So the region that an object shows is its inside without the insides of what is
painted after it, and the distance to the boundary of that region is the least of the distance to its own surface and
the distances to the surfaces of all objects painted after it: on the way to any other surface one of these is met
first. Where no object is, the nearest surface of all is the boundary. Two minima, kept while painting, are all that
it takes; no distance transform.

A window takes part in the painting. The body is painted before all objects; its surface is the window's edge. Of every
object only what the window shows is painted: the intersection of both, so that a cut is surface, of the object and as
a boundary, and what is hidden is none. The envelope is painted after all. What is beyond is background, whose nearest
surface is that of something seen.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.shape import Distance, length

REACH = 8.0
"""Millimetres (voxels of 1 mm); distances beyond count as this far."""


def voxels_of_units(inverse: Float[Array, "n 3 4"]) -> Float[Array, " n"]:
    """Millimetres a unit of each object's own coordinates is: where its pose stretches, the mean of the axes."""
    linear = inverse[:, :, :3]
    volume = jnp.abs((linear[:, 0] * jnp.cross(linear[:, 1], linear[:, 2])).sum(-1))
    return 1 / jnp.cbrt(volume)


def painted_over(
    own: Distance, boundary: Distance, d: Distance
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The distances to the owner's surface and to the boundary, after an object at distance ``d`` is painted.

    Where the object is, both are its own. Elsewhere its surface may be the nearest: of the boundary, and of all
    objects where none has been painted.
    """
    inside = d <= 0
    outside = jnp.where(own > 0, jnp.minimum(own, d), own)
    return jnp.where(inside, d, outside), jnp.where(inside, -d, jnp.minimum(boundary, d))


class Edges(NamedTuple):
    """A window's part in the painting, as signed distances in millimetres, `REACH` where something is not there.

    Attributes:
        body: to the body's surface, ``(D, H, W)``.
        cut: to the edge of what is seen of objects, and the unit vector z, y, x away from it, ``(4, D, H, W)``.
        envelope: to the envelope's surface, ``(D, H, W)``.
    """

    body: Float[Array, "D H W"]
    cut: Float[Array, "4 D H W"]
    envelope: Float[Array, "D H W"]


def unpainted(shape: Sequence[int], edges: Edges | None) -> Float[Array, "2 D H W"]:
    """Both distances before any object is painted."""
    far = jnp.full(tuple(shape), REACH, jnp.float32)
    return jnp.stack((far, far) if edges is None else painted_over(far, far, edges.body))


def painted_last(painted: Float[Array, "2 D H W"], edges: Edges | None) -> Float[Array, "2 D H W"]:
    """Both distances after all objects are painted, cut at ±`REACH`."""
    if edges is not None:
        painted = jnp.stack(painted_over(painted[0], painted[1], edges.envelope))
    return jnp.clip(painted, -REACH, REACH)


def slopes(volume: Float[Array, "D H W"], spacing: Sequence[float]) -> Float[Array, "3 D H W"]:
    """How a volume changes along z, y, x, a millimetre."""
    return jnp.stack(jnp.gradient(volume, *spacing))


def shown(
    d: Float[Array, "D H W"], cut: Float[Array, "4 D H W"], spacing: Sequence[float]
) -> Float[Array, "D H W"]:
    """The signed distance to what a window shows of an object at distance ``d``.

    The greater of both distances, but where the nearest point of either surface is not part of the other region. There
    the line in which the surfaces meet is nearest, as far away as it is from two planes at these distances whose
    normals are at the same angle.
    """
    edge, normal = cut[0], cut[1:]
    slope = slopes(d, spacing)
    cosine = (slope * normal).sum(0) / jnp.maximum(length(*slope), 1e-6)
    sine = jnp.sqrt(jnp.maximum(1 - jnp.square(cosine), 1e-6))
    greater = jnp.maximum(d, edge)
    line = jnp.maximum(length((d - cosine * edge) / sine, edge), greater)
    return jnp.where((edge > cosine * d) & (d > cosine * edge), line, greater)
