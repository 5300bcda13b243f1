"""The convolutional blocks that MONAI's UNETR and SwinUNETR share, under MONAI's names.

Source: Hatamizadeh et al. 2021, UNETR (arXiv 2103.10504). Kernels are 3x3x3, the grid doubles by transposed
convolutions of 2x2x2, norms are instance norms without scale and shift, convolutions have no bias and start as
PyTorch's do.

A network of these blocks puts `TORCH_NAMES` into its ``torch_names``: MONAI wraps a convolution in a module of
its own, ours is one. `UnetOutBlock` is its head.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from fdif_jax.models.conv import Conv, ConvTranspose
from fdif_jax.models.initialisers import LEAKY_SLOPE, TORCH
from fdif_jax.models.layers import InstanceNorm, call

# Our path of a convolution → MONAI's name of it. In a block sequence convolution 0 comes before the block 1.
TORCH_NAMES: tuple[tuple[str, str], ...] = (
    (r"\b(conv\d?|transp_conv(?:_init)?|blocks\.\d+(?:\.0)?)\.(weight|bias)$", r"\1.conv.\2"),
)


def decoded(
    decoders: Sequence[nnx.Module], coarsest: Array, skips: Sequence[Array], *, remat: bool
) -> list[Array]:
    """What decoders give one after another, each a skip beside what is below it: finest first, with the coarsest."""
    outputs = [coarsest]
    for decoder, skip in zip(decoders, reversed(skips), strict=True):
        outputs.append(call(decoder, outputs[-1], skip, remat=remat))
    return outputs[::-1]


def _conv(c_in: int, c_out: int, edge: int = 3, **options) -> Conv:
    return Conv(c_in, c_out, (edge, edge, edge), bias=False, init=TORCH, **options)


def _doubling(c_in: int, c_out: int, **options) -> ConvTranspose:
    return ConvTranspose(c_in, c_out, (2, 2, 2), bias=False, init=TORCH, **options)


def _activation(x: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(x, LEAKY_SLOPE)


class UnetBasicBlock(nnx.Module):
    """Twice convolution, instance norm and leaky ReLU."""

    def __init__(self, c_in: int, c_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv1 = _conv(c_in, c_out, dtype=dtype, rngs=rngs)
        self.conv2 = _conv(c_out, c_out, dtype=dtype, rngs=rngs)
        self.norm1 = InstanceNorm(c_out, affine=False, dtype=dtype)
        self.norm2 = InstanceNorm(c_out, affine=False, dtype=dtype)

    def __call__(self, x):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, c_out)``."""
        x = _activation(self.norm1(self.conv1(x)))
        return _activation(self.norm2(self.conv2(x)))


class UnetResBlock(UnetBasicBlock):
    """The same with a skip, which projects and normalises if the channels change, added before the last ReLU."""

    def __init__(self, c_in: int, c_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(c_in, c_out, dtype=dtype, rngs=rngs)
        self.projects = c_in != c_out
        if self.projects:
            self.conv3 = _conv(c_in, c_out, 1, dtype=dtype, rngs=rngs)
            self.norm3 = InstanceNorm(c_out, affine=False, dtype=dtype)

    def __call__(self, x):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, c_out)``."""
        y = _activation(self.norm1(self.conv1(x)))
        skip = self.norm3(self.conv3(x)) if self.projects else x
        return _activation(self.norm2(self.conv2(y)) + skip)


def _block(c_in: int, c_out: int, *, residual: bool, **options) -> UnetBasicBlock:
    return (UnetResBlock if residual else UnetBasicBlock)(c_in, c_out, **options)


class UnetrBasicBlock(nnx.Module):
    """A block at one resolution; ``residual`` or plain."""

    def __init__(self, c_in: int, c_out: int, *, residual: bool = True, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layer = _block(c_in, c_out, residual=residual, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, c_out)``."""
        return self.layer(x)


class UnetrUpBlock(nnx.Module):
    """A decoder stage: double the grid, put the encoder's features beside, then a block."""

    def __init__(self, c_in: int, c_out: int, *, residual: bool = True, dtype: DTypeLike, rngs: nnx.Rngs):
        self.transp_conv = _doubling(c_in, c_out, dtype=dtype, rngs=rngs)
        self.conv_block = _block(2 * c_out, c_out, residual=residual, dtype=dtype, rngs=rngs)

    def __call__(self, x, skip):
        """``(B, d, h, w, c_in)`` and ``(B, 2d, 2h, 2w, c_out)`` → ``(B, 2d, 2h, 2w, c_out)``."""
        return self.conv_block(jnp.concatenate([self.transp_conv(x), skip], axis=-1))


class UnetrPrUpBlock(nnx.Module):
    """Projection up: double the grid ``1 + number`` times; with ``convolve`` a block after every further one."""

    def __init__(self, c_in: int, c_out: int, number: int, *, convolve: bool, residual: bool, **options: Any):
        self.transp_conv_init = _doubling(c_in, c_out, **options)
        blocks: list[Any] = []
        for _ in range(number):
            up = _doubling(c_out, c_out, **options)
            blocks.append(
                nnx.List([up, _block(c_out, c_out, residual=residual, **options)]) if convolve else up
            )
        self.blocks = nnx.List(blocks)

    def __call__(self, x):
        """``(B, d, h, w, c_in)`` → ``(B, D, H, W, c_out)``."""
        x = self.transp_conv_init(x)
        for block in self.blocks:
            for layer in block if isinstance(block, nnx.List) else (block,):
                x = layer(x)
        return x


class UnetOutBlock(nnx.Module):
    """The head: a 1x1x1 convolution with bias to the logits, float32."""

    def __init__(self, c_in: int, out_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(c_in, out_channels, (1, 1, 1), bias=True, init=TORCH, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, out_channels)``."""
        return self.conv(x).astype(jnp.float32)
