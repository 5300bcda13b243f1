"""Filters of volumes that work along one axis at a time, each a small matrix of that axis."""

import jax.numpy as jnp
from jaxtyping import Array


def along_axes(volume: Array, matrices: list[Array]) -> Array:
    """Multiply a volume along each of its axes by the matrix (new edge, old edge) of that axis."""
    for axis, matrix in enumerate(matrices):
        volume = jnp.moveaxis(jnp.tensordot(matrix, volume, axes=(1, axis)), 0, axis)
    return volume


def hat(positions: Array, nodes: int) -> Array:
    """Weights (positions, nodes) of linear interpolation between nodes 0, 1, …; beyond the ends the last node's."""
    clipped = jnp.clip(positions, 0, nodes - 1)
    return jnp.maximum(1 - jnp.abs(clipped[:, None] - jnp.arange(nodes)), 0)


def gaussian(edge: int, deviation: Array) -> Array:
    """The matrix of a Gaussian blur along one axis; what lies beyond the ends does not count."""
    offset = jnp.arange(edge)[:, None] - jnp.arange(edge)
    weights = jnp.exp(-0.5 * jnp.square(offset / jnp.maximum(deviation, 1e-3)))
    return weights / weights.sum(1, keepdims=True)


def slices(edge: int, thickness: Array) -> Array:
    """The matrix that averages slices of ``thickness`` voxels and interpolates linearly between their centres."""
    thickness = jnp.maximum(thickness, 1.0)
    slices = jnp.arange(edge)[:, None]
    # The fraction of each voxel that a slice covers; at most ``edge`` slices, the last ones perhaps beyond the volume.
    start, end = slices * thickness, (slices + 1) * thickness
    voxels = jnp.arange(edge)
    covered = jnp.clip(jnp.minimum(end, voxels + 1) - jnp.maximum(start, voxels), 0, 1)
    count = jnp.ceil(edge / thickness - 1e-4)
    averages = covered / jnp.maximum(covered.sum(1, keepdims=True), 1e-6)
    positions = jnp.clip((voxels + 0.5) / thickness - 0.5, 0, count - 1)
    return hat(positions, edge) @ averages
