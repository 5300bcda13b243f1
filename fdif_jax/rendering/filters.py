"""Filters of volumes that work along one axis at a time, each a small matrix of that axis, and smooth noise."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt


def along_axes(volume: Float[Array, "d h w"], matrices: Sequence[Array]) -> Float[Array, "D H W"]:
    """Multiply a volume along each of its axes by the matrix (new edge, old edge) of that axis."""
    z, y, x = matrices
    d, h, w = volume.shape
    volume = (volume.reshape(-1, w) @ x.T).reshape(d, h, -1)  # the first and the last axis need no transpose
    volume = jnp.einsum("ij,djw->diw", y, volume)
    return (z @ volume.reshape(d, -1)).reshape(-1, *volume.shape[1:])


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


def hashed(key: Array, shape: Sequence[int]) -> UInt[Array, "..."]:
    """Random words of 32 bits, of a key and a voxel's number: a seventh of the time of `jax.random.bits`.

    The number and two words of the key go through an integer hash; good enough for noise, not for drawing scenes.
    Source of the hash: C. Wellons, "lowbias32", https://nullprogram.com/blog/2018/07/31/ (public domain).
    """
    first, second = jax.random.bits(key, (2,))
    x = jnp.arange(math.prod(shape), dtype=jnp.uint32) * jnp.uint32(0x9E3779B9) + first
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ second ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return (x ^ (x >> 16)).reshape(shape)


def layered_noise(key: Array, shape: Sequence[int], edges: Sequence[int]) -> Float[Array, "D H W"]:
    """Smooth noise of several scales: normal values on coarse grids, interpolated; the strength of each is drawn.

    Args:
        key: random key.
        shape: voxels ``(D, H, W)``.
        edges: nodes an axis of the coarse grids, rising; the strength of each is uniform from 0 to 1.
    """
    strength_key, *keys = jax.random.split(key, 1 + len(edges))
    strengths = jax.random.uniform(strength_key, (len(edges),))
    wave = jnp.zeros((2, 2, 2))
    for k, n, strength in zip(keys, edges, strengths, strict=True):
        wave = enlarged(wave, (n, n, n)) + strength * jax.random.normal(k, (n, n, n))
    return enlarged(wave, shape)


def enlarged(volume: Array, shape: Sequence[int]) -> Array:
    """Trilinear interpolation to another grid, the corners kept."""
    pairs = zip(shape, volume.shape, strict=True)
    return along_axes(volume, [hat(jnp.linspace(0, old - 1, n), old) for n, old in pairs])


def partly_mixed(volume: Array) -> Array:
    """Voxels at surfaces as partial volume has them on average: an eighth of each neighbour along every axis.

    Where a surface lies between two voxel centres is unknown; if anywhere alike, the outermost voxel of an object is
    7/8 full on average, and these weights make it so.
    """
    for axis in range(3):
        padded = jnp.pad(volume, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, i, i + volume.shape[axis], axis=axis) for i in (0, 2))
        volume = 0.75 * volume + 0.125 * (before + after)
    return volume
