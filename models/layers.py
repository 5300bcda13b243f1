"""The layers beside convolution that the networks share: norms, linear maps, dropout, remat.

All are channels last, hold float32 parameters and compute in ``dtype``. What PyTorch calls training mode is a
key: there is no dropout where the key is None.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fdif_jax.models.initialisers import TORCH, TRANSFORMER, Initialiser


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
        if self.weight is None or self.bias is None:
            return _standardised(x, self.eps)[0].astype(self.dtype)
        norm = _layer_norm_on_cpu if jax.default_backend() == "cpu" else _layer_norm
        return norm(x, self.weight[...], self.bias[...], self.eps).astype(self.dtype)


def _standardised(x: Float[Array, "*N C"], eps: float) -> tuple[Array, Array]:
    """Zero mean and unit variance over the channels; and the factor that made it unit."""
    centred = x - x.mean(-1, keepdims=True)
    scale = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    return centred * scale, scale


def _layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    return _layer_norm_kept(x, weight, bias, eps)[0]


_layer_norm_on_cpu = jax.custom_vjp(_layer_norm, nondiff_argnums=(3,))


def _layer_norm_kept(x, weight, bias, eps):
    normal, scale = _standardised(x, eps)
    return normal * weight + bias, (normal, scale, weight)


def _layer_norm_gradients(eps, kept, gradient):
    """Sum rows and columns by products: XLA's own reductions on a CPU take 15 ns an element, these 1."""
    normal, scale, weight = kept
    channels = weight.size
    change = lax.optimization_barrier(gradient.reshape(-1, channels))
    rows = normal.reshape(-1, channels)
    both = lax.optimization_barrier(change * rows)
    ones = jnp.ones((1, len(rows)))
    mean, slope = ((array @ weight / channels)[:, None] for array in (change, both))
    turned = scale.reshape(-1, 1) * (change * weight - mean - rows * slope)
    return turned.reshape(normal.shape), (ones @ both)[0], (ones @ change)[0]


_layer_norm_on_cpu.defvjp(_layer_norm_kept, _layer_norm_gradients)


@jax.custom_vjp
def _product(x: Float[Array, "*N C"], weight: Float[Array, "C O"]) -> Float[Array, "*N O"]:
    return x @ weight


def _product_kept(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, weight), (x, weight)


def _product_gradients(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = kept
    # The barriers keep XLA from turning an array while it is computed, 15 ns an element where a copy takes 1.
    rows, change = lax.optimization_barrier((x.reshape(-1, x.shape[-1]), gradient))
    turned = lax.optimization_barrier(rows.T)
    return change @ weight.T, turned @ change.reshape(-1, weight.shape[-1])


_product.defvjp(_product_kept, _product_gradients)


def product(x: Float[Array, "*N C"], weight: Float[Array, "C O"]) -> Float[Array, "*N O"]:
    """Matrix product of every row of ``x``; on a CPU, JAX's default backend at trace time, with gradients in the form
    fastest there.
    """
    return _product(x, weight) if jax.default_backend() == "cpu" else x @ weight


class Affine(nnx.Module):
    """A weight, output features last, and a bias or none: what linear maps and convolutions share."""

    def __init__(
        self,
        shape: tuple[int, ...],
        fan_in: int,
        torch_axes: tuple[int, ...],
        *,
        bias,
        init: Initialiser,
        dtype,
        rngs,
    ):
        self.weight = nnx.Param(init.weight(rngs.params(), shape, fan_in), torch_axes=torch_axes)
        self.bias = nnx.Param(init.bias(rngs.params(), shape[-1:], fan_in)) if bias else None
        self.dtype = dtype

    def shifted(self, y: Float[Array, "*N O"]) -> Float[Array, "*N O"]:
        """Add the bias, if there is one; the result has ``dtype``."""
        return y if self.bias is None else (y + self.bias[...]).astype(self.dtype)


class Linear(Affine):
    """Affine map of the channels; weight ``(in, out)``."""

    def __init__(
        self, c_in: int, c_out: int, *, bias: bool = True, init: Initialiser = TRANSFORMER, **options: Any
    ):
        super().__init__((c_in, c_out), c_in, (1, 0), bias=bias, init=init, **options)

    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N O"]:
        """Map; the result has ``dtype``."""
        return self.shifted(product(x.astype(self.dtype), self.weight[...].astype(self.dtype)))


def dropout(
    x: Float[Array, "..."], rate: float, key: Array | None, axes: tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Put 0 where a draw of probability ``rate`` says so and divide the rest by ``1 - rate``; nothing without a key.

    Draws are independent along ``axes``, all if not given; along the others one draw holds for all.
    """
    if key is None or rate == 0:
        return x
    shape = [n if axes is None or axis in axes else 1 for axis, n in enumerate(x.shape)]
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def drop_path(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """`dropout` of whole samples: stochastic depth (Huang et al. 2016, arXiv 1603.09382)."""
    return dropout(x, rate, key, axes=(0,))


def split(key: Array | None, number: int) -> Sequence[Array | None]:
    """Independent keys for the parts of a network; without a key none for each."""
    return [None] * number if key is None else list(jax.random.split(key, number))


class Mlp(nnx.Module):
    """Two linear maps with GELU between them, and dropout after each in training."""

    def __init__(self, features: int, hidden: int, rate: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.linear1 = Linear(features, hidden, init=TORCH, dtype=dtype, rngs=rngs)
        self.linear2 = Linear(hidden, features, init=TORCH, dtype=dtype, rngs=rngs)
        self.rate = rate

    def __call__(self, x: Float[Array, "*N C"], key: Array | None) -> Float[Array, "*N C"]:
        """Map every voxel or token."""
        keys = split(key, 2)
        x = dropout(jax.nn.gelu(self.linear1(x), approximate=False), self.rate, keys[0])
        return dropout(self.linear2(x), self.rate, keys[1])


def call(module: nnx.Module, *inputs, remat: bool):
    """``module(*inputs)``; with ``remat`` what it computes is computed again in the backward pass, not kept."""
    if not remat:
        return module(*inputs)
    graph, state = nnx.split(module)

    # not nnx.remat, which also puts the constants back, and fails where they are from outside a transformation
    @jax.checkpoint
    def run(state, *inputs):
        copy = nnx.merge(graph, state)
        return copy(*inputs), nnx.state(copy, nnx.BatchStat)

    outputs, statistics = run(state, *inputs)
    nnx.update(module, statistics)
    return outputs
