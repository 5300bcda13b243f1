"""How fresh weights are drawn: the distributions that the PyTorch originals use.

An `Initialiser` draws a layer's weight and bias from a key, a shape and the layer's fan-in as PyTorch counts it:
the inputs that one output sums over, and for a transposed convolution its outputs times its kernel.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Slope of the leaky ReLU that the Kaiming initialisation reckons with.
LEAKY_SLOPE = 1e-2

Draw = Callable[[Array, Sequence[int], int], Float[Array, "..."]]


class Initialiser(NamedTuple):
    """Draws of a layer's weight and of its bias: ``(key, shape, fan_in)`` → float32 array."""

    weight: Draw
    bias: Draw


def zeros(key: Array, shape: Sequence[int], fan_in: int) -> Float[Array, "..."]:
    """All 0."""
    return jnp.zeros(shape)


def he_normal(key: Array, shape: Sequence[int], fan_in: int) -> Float[Array, "..."]:
    """Kaiming normal for leaky ReLU: N(0, 2 / ((1 + a²) fan_in)) (He et al. 2015, arXiv 1502.01852)."""
    return math.sqrt(2 / ((1 + LEAKY_SLOPE**2) * fan_in)) * jax.random.normal(key, shape, jnp.float32)


def fan_uniform(key: Array, shape: Sequence[int], fan_in: int) -> Float[Array, "..."]:
    """U(-1/√fan_in, 1/√fan_in), what PyTorch's convolutions and linear layers start with."""
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def small_normal(key: Array, shape: Sequence[int], fan_in: int) -> Float[Array, "..."]:
    """N(0, 0.02²), the usual start of vision transformers; nothing lies beyond ±2, as nothing would anyway."""
    return 0.02 * jax.random.normal(key, shape, jnp.float32)


HE = Initialiser(he_normal, zeros)  # nnU-Net's
TORCH = Initialiser(fan_uniform, fan_uniform)  # PyTorch's own
TRANSFORMER = Initialiser(small_normal, zeros)  # of vision transformers
