"""Distances as targets: how far every voxel is from a surface, from what a renderer computes anyway.

Objects are painted one over another. So the region that an object shows is its inside without the insides of what is
painted after it, and the distance to the boundary of that region is the least of the distance to its own surface and
the distances to the surfaces of all objects painted after it: on the way to any other surface one of these is met
first. Where no object is, the nearest surface of all is the boundary. Two minima, kept while painting, are all that
it takes; no distance transform.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.shape import Distance

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
