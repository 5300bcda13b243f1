"""What happens to an image between its voxels and the network: normalisation, and random looks and
mirrorings.

All functions are jittable and take a batch, ``(B, D, H, W)``; what is random is drawn anew for every sample.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Num

Images = Float[Array, "B D H W"]


def normalise(images: Num[Array, "B D H W"]) -> Images:
    """Zero mean and unit variance per volume, over all its voxels, float32; a constant volume becomes about 0.

    Synthetic volumes (0…128) and MRI (arbitrary units) meet in this form, so a pre-trained first layer sees
    in both the range that it learnt.
    """
    images = images.astype(jnp.float32)
    centred = images - images.mean((1, 2, 3), keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean((1, 2, 3), keepdims=True))
    # What float32 makes of a constant volume's mean must not be blown up to unit variance.
    rounding = 1e-5 * jnp.abs(images).max((1, 2, 3), keepdims=True)
    return centred / jnp.maximum(deviation, jnp.maximum(rounding, 1e-30))


def random_intensity(key: jax.Array, images: Images) -> Images:
    """Random looks of normalised images, each change with probability 1/2 per sample.

    Gamma 0.7…1.5 over the sample's own range, then contrast ×0.8…1.2, brightness ±0.1, and Gaussian noise of
    a standard deviation up to 0.1.
    """
    gamma_key, contrast_key, shift_key, noise_key, voxel_key = jax.random.split(key, 5)
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    span = jnp.maximum(high - low, 1e-6)
    gamma = jnp.exp(_sometimes(gamma_key, images, jnp.log(0.7), jnp.log(1.5)))
    images = low + span * jnp.clip((images - low) / span, 1e-6, 1) ** gamma
    images *= 1 + _sometimes(contrast_key, images, -0.2, 0.2)
    images += _sometimes(shift_key, images, -0.1, 0.1)
    return images + _sometimes(noise_key, images, 0, 0.1) * jax.random.normal(voxel_key, images.shape)


def _sometimes(key: jax.Array, images: Images, low, high) -> Float[Array, "B 1 1 1"]:
    """One number a sample: uniform with probability 1/2, else 0."""
    toss, value = jax.random.split(key)
    shape = (len(images), 1, 1, 1)
    return jnp.where(
        jax.random.bernoulli(toss, 0.5, shape), jax.random.uniform(value, shape, minval=low, maxval=high), 0
    )


def random_mirror(
    key: jax.Array, images: Images, labels: Integer[Array, "B D H W"], axes: Sequence[int]
) -> tuple[Images, Integer[Array, "B D H W"]]:
    """Image and label mirrored together along each of ``axes`` (0, 1, 2 for D, H, W) with probability 1/2."""
    for axis, axis_key in zip(axes, jax.random.split(key, max(len(axes), 1)), strict=False):
        flip = jax.random.bernoulli(axis_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(flip, jnp.flip(images, axis + 1), images)
        labels = jnp.where(flip, jnp.flip(labels, axis + 1), labels)
    return images, labels
