"""What happens to an image between its voxels and the network: normalisation and data augmentation."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from fdif_jax.sdf.affine import turns

Image = Float[Array, "D H W *channels"]


def random_intensity(key: jax.Array, image: Image) -> Image:
    """A random look of a normalised image, each change with probability 1/2.

    Gamma 0.7…1.5 over the image's own range, then contrast ×0.8…1.2, brightness ±0.1, and Gaussian noise of
    a standard deviation up to 0.1. Channels have looks of their own.
    """
    if image.ndim == 4:
        keys = jax.random.split(key, image.shape[3]) if image.shape[3] > 1 else key[None]
        return jax.vmap(random_intensity, (0, 3), 3)(keys, image)
    gamma_key, contrast_key, shift_key, noise_key, voxel_key = jax.random.split(key, 5)
    low, high = image.min(), image.max()
    span = jnp.maximum(high - low, 1e-6)
    gamma = jnp.exp(_sometimes(gamma_key, jnp.log(0.7), jnp.log(1.5)))
    image = low + span * jnp.clip((image - low) / span, 1e-6, 1) ** gamma
    image *= 1 + _sometimes(contrast_key, -0.2, 0.2)
    image += _sometimes(shift_key, -0.1, 0.1)
    return image + _sometimes(noise_key, 0, 0.1) * jax.random.normal(voxel_key, image.shape)


def _sometimes(key: jax.Array, low: Any, high: Any) -> Float[Array, ""]:
    """A number: uniform with probability 1/2, else 0."""
    toss, value = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(toss), jax.random.uniform(value, minval=low, maxval=high), 0)


def random_turn(key: jax.Array, spacing: Sequence[float], degrees: float, zoom: float) -> Float[Array, "3 3"]:
    """A random rotation and scaling, as the matrix from a patch's voxels to the case's, both from their middles.

    The rotation is one in millimetres, ``spacing`` between voxels: around each axis uniform between so many degrees to
    either side, with probability 1/2 for all three. Things are shown 1/zoom to zoom times as large, evenly in the
    logarithm, with probability 1/2.
    """
    turn_key, angle_key, zoom_key = jax.random.split(key, 3)
    largest = jnp.where(jax.random.bernoulli(turn_key), jnp.deg2rad(degrees), 0)
    angles = jax.random.uniform(angle_key, (3,), minval=-1, maxval=1) * largest
    rotation = reduce(partial(jnp.matmul, precision="highest"), turns(angles))
    logarithm = _sometimes(zoom_key, -jnp.log(zoom), jnp.log(zoom))
    widths = jnp.asarray(spacing, jnp.float32)
    return rotation * widths / widths[:, None] * jnp.exp(-logarithm)


def random_mirror(
    key: jax.Array, image: Image, label: Integer[Array, "D H W"], axes: Sequence[int]
) -> tuple[Image, Integer[Array, "D H W"]]:
    """Image and label mirrored together along each of ``axes`` (0, 1, 2 for D, H, W) with probability 1/2."""
    for axis, axis_key in zip(axes, jax.random.split(key, max(len(axes), 1)), strict=False):
        flip = jax.random.bernoulli(axis_key)
        image, label = (jnp.where(flip, jnp.flip(a, axis), a) for a in (image, label))
    return image, label
