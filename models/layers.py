"""The layers beside convolution that the networks share: norms, linear, attention, random omissions, remat.

All are channels last, hold float32 parameters and compute in ``dtype``. What PyTorch calls training mode is a
key: a layer that omits at random omits nothing where the key is None.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fdif_jax.models.initialisers import TRANSFORMER, Initialiser


class InstanceNorm(nnx.Module):
    """Per sample and channel: zero mean, unit variance over the voxels, then scale and shift.

    Statistics are float32 whatever the input is; biased variance (Ulyanov et al. 2016, arXiv 1607.08022).
    """

    def __init__(
        self,
        features: int,
        *,
        affine: bool = True,
        zero: bool = False,
        eps: float = 1e-5,
        dtype: DTypeLike,
    ):
        """``zero`` starts with scale 0, so that the layer passes nothing on at first; not ``affine``: no scale."""
        self.weight = nnx.Param(jnp.full(features, 0.0 if zero else 1.0)) if affine else None
        self.bias = nnx.Param(jnp.zeros(features)) if affine else None
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "B D H W C"]) -> Float[Array, "B D H W C"]:
        """Normalise; the result has ``dtype``."""
        x = x.astype(jnp.float32)
        mean = x.mean((1, 2, 3), keepdims=True)
        centred = x - mean
        variance = jnp.square(centred).mean((1, 2, 3), keepdims=True)
        scale = lax.rsqrt(variance + self.eps)
        if self.weight is None or self.bias is None:
            return (centred * scale).astype(self.dtype)
        return (centred * (scale * self.weight[...]) + self.bias[...]).astype(self.dtype)


class BatchNorm(nnx.Module):
    """Per channel: zero mean, unit variance over batch and voxels, then scale and shift.

    In training the batch's own statistics, which move the running ones by ``momentum`` (the variance unbiased, as
    PyTorch keeps it); else the running ones (Ioffe & Szegedy 2015, arXiv 1502.03167).
    """

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1, dtype: DTypeLike):
        self.weight = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.running_mean = nnx.BatchStat(jnp.zeros(features))
        self.running_var = nnx.BatchStat(jnp.ones(features))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.eps, self.momentum, self.dtype = eps, momentum, dtype

    def __call__(self, x: Float[Array, "B D H W C"], training: bool = False) -> Float[Array, "B D H W C"]:
        """Normalise; the result has ``dtype``."""
        x = x.astype(jnp.float32)
        mean, variance = self.running_mean[...], self.running_var[...]
        if training:
            own_mean = x.mean((0, 1, 2, 3))
            own_variance = jnp.square(x - own_mean).mean((0, 1, 2, 3))
            number = x.size // x.shape[-1]
            unbiased = own_variance * (number / max(number - 1, 1))
            self.running_mean[...] = lax.stop_gradient(mean + self.momentum * (own_mean - mean))
            self.running_var[...] = lax.stop_gradient(variance + self.momentum * (unbiased - variance))
            self.num_batches_tracked[...] = self.num_batches_tracked[...] + 1
            mean, variance = own_mean, own_variance
        y = (x - mean) * (lax.rsqrt(variance + self.eps) * self.weight[...]) + self.bias[...]
        return y.astype(self.dtype)


class LayerNorm(nnx.Module):
    """Per voxel or token: zero mean, unit variance over the channels, then scale and shift.

    Statistics are float32; biased variance (Ba et al. 2016, arXiv 1607.06450).
    """

    def __init__(self, features: int, *, affine: bool = True, eps: float = 1e-5, dtype: DTypeLike):
        self.weight = nnx.Param(jnp.ones(features)) if affine else None
        self.bias = nnx.Param(jnp.zeros(features)) if affine else None
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
        """Normalise; the result has ``dtype``."""
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[...] + self.bias[...]
        return y.astype(self.dtype)


class Linear(nnx.Module):
    """Affine map of the channels; weight ``(in, out)``."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init: Initialiser = TRANSFORMER,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        weight = init.weight(rngs.params(), (in_features, out_features), in_features)
        self.weight = nnx.Param(weight, torch_axes=(1, 0))
        self.bias = nnx.Param(init.bias(rngs.params(), (out_features,), in_features)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N O"]:
        """Map; the result has ``dtype``."""
        y = x.astype(self.dtype) @ self.weight[...].astype(self.dtype)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def dropout(
    x: Float[Array, "..."], rate: float, key: Array | None, axes: tuple[int, ...]
) -> Float[Array, "..."]:
    """Put 0 where a draw of probability ``rate`` says so and divide the rest by ``1 - rate``; nothing without a key.

    Args:
        axes: the axes of ``x`` along which draws are independent; along the others one draw holds for all.
    """
    if key is None or rate == 0:
        return x
    shape = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def drop_path(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """`dropout` of whole samples: stochastic depth (Huang et al. 2016, arXiv 1603.09382)."""
    return dropout(x, rate, key, axes=(0,))


def call(module: nnx.Module, *inputs, remat: bool):
    """``module(*inputs)``; with ``remat`` what it computes is computed again in the backward pass, not kept."""
    return nnx.remat(lambda module, *inputs: module(*inputs))(module, *inputs) if remat else module(*inputs)
