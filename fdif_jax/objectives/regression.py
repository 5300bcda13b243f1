"""Numbers of every voxel: a head that gives them, and how far off they are."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class VoxelHead(nnx.Module):
    """A linear map of a voxel's features, the same for all voxels."""

    def __init__(self, c_in: int, channels: int, *, rngs: nnx.Rngs):
        self.map = nnx.Linear(c_in, channels, rngs=rngs)

    def __call__(self, features: Float[Array, "... C"]) -> Float[Array, "... c"]:
        """The numbers, float32."""
        return self.map(features.astype(jnp.float32))


def smooth_l1(predicted: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
    """The mean of e² / 2 where the error e is below 1, and of e - ½ elsewhere. Source: Fast R-CNN, arXiv 1504.08083."""
    error = jnp.abs(predicted - target)
    near = jnp.minimum(error, 1.0)
    return (near * (error - near / 2)).mean()
