"""Numbers of every voxel: a head that gives them, and how far off they are."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class VoxelHead(nnx.Module):
    """A sum of linear maps of features, one of every resolution.

    From the coarsest on, each sum is linear between its voxels on the grid of the next finer features: what is far
    away tells the large lengths, what is near the rest.
    """

    def __init__(self, channels: Sequence[int], c_out: int, *, rngs: nnx.Rngs):
        finest, *coarser = (nnx.Linear(c_in, c_out, rngs=rngs) for c_in in channels)
        self.map = finest
        self.coarser = nnx.List(coarser)

    def __call__(
        self, features: Sequence[Float[Array, "B d h w C"]], grid: Sequence[int]
    ) -> Float[Array, "B D H W c"]:
        """The numbers of the voxels of ``grid`` (D, H, W), float32.

        Args:
            features: of the resolutions that the head has maps for, finest first; more are left alone.
            grid: voxels of the images.
        """
        pairs = zip((self.map, *self.coarser), features, strict=False)
        mapped = [linear(level.astype(jnp.float32)) for linear, level in pairs]
        total = mapped.pop()
        for finer in mapped[::-1]:
            total = finer + _at(total, finer.shape[1:4])
        return _at(total, grid)


def _at(values: Float[Array, "B d h w c"], grid: Sequence[int]) -> Float[Array, "B D H W c"]:
    """Values of a coarser grid, between whose voxels they are linear; of ``grid`` itself as they are."""
    shape = (len(values), *grid, values.shape[-1])
    return values if values.shape == shape else jax.image.resize(values, shape, "linear")


def smooth_l1(predicted: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
    """The mean of e² / 2 where the error e is below 1, and of e - ½ elsewhere. Source: Fast R-CNN, arXiv 1504.08083."""
    error = jnp.abs(predicted - target)
    near = jnp.minimum(error, 1.0)
    return (near * (error - near / 2)).mean()
