"""Convolution in 3D and its relatives: over patches, transposed, pooling.

All are channels last, ``(B, D, H, W, C)``, hold float32 parameters and compute in ``dtype``. A parameter
whose axes are ordered otherwise than PyTorch's carries ``torch_axes``, the permutation to PyTorch's order.

XLA's 3D convolution on a CPU is slow, its strided gradients above all. So oneDNN convolves there, where it is installed
(`onednn_conv`). Where it is not, as XLA's 2D convolution is fast, the depth taps are laid side by side as channels and
one 2D convolution does the rest (`conv_folded`): the same sum in another order. With half as many outputs as inputs or
fewer it is faster to lay the depth taps of the outputs side by side, and to shift and sum them after the 2D convolution
(`conv_spread`). Where a slice is smaller than the kernel XLA leaves its fast convolution, and where there are few
voxels and many channels one matmul is faster (`conv_gathered`). On a GPU layers take the folded or the spread form.
All figures are in docs/performance.md.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.models import onednn_conv
from fdif_jax.models.initialisers import HE, Initialiser
from fdif_jax.models.layers import Affine, product

Triple = tuple[int, int, int]


def repeated(value: Any, number: int = 3) -> Any:
    """A value for each of so many: of one number that number each time, else a tuple of what is given."""
    return (value,) * number if isinstance(value, int) else tuple(value)


# Where `conv_gathered` is the fastest form on a CPU, and `conv_spread` on a GPU.
_FEW_VOXELS, _MANY_CHANNELS = 256, 128
_WIDE_ON_GPU = 48


def conv_direct(
    x: Float[Array, "B D H W C"], weight: Float[Array, "kd kh kw C O"], strides: Triple = (1, 1, 1)
) -> Float[Array, "B d h w O"]:
    """3D convolution, zero padding ``(k-1)//2`` a side, by XLA's own operation."""
    padding = [((k - 1) // 2,) * 2 for k in weight.shape[:3]]
    return lax.conv_general_dilated(
        x, weight, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def conv_folded(
    x: Float[Array, "B D H W C"], weight: Float[Array, "kd kh kw C O"], strides: Triple = (1, 1, 1)
) -> Float[Array, "B d h w O"]:
    """The same convolution as one in 2D: depth slices become the batch, depth taps become input channels."""
    kd, kh, kw, _, features = weight.shape
    taps = [tap(x, 1, i, kd, strides[0]) for i in range(kd)]
    flat = weight.transpose(1, 2, 0, 3, 4).reshape(kh, kw, -1, features)
    return conv_slices(jnp.concatenate(taps, axis=-1), flat, strides[1:])


def conv_spread(
    x: Float[Array, "B D H W C"], weight: Float[Array, "kd kh kw C O"], strides: Triple = (1, 1, 1)
) -> Float[Array, "B d h w O"]:
    """The same convolution as one in 2D: depth taps become output channels, which are shifted and summed."""
    kd, kh, kw, channels, _ = weight.shape
    flat = weight.transpose(1, 2, 3, 0, 4).reshape(kh, kw, channels, -1)
    terms = jnp.split(conv_slices(x, flat, strides[1:]), kd, axis=-1)
    return sum(tap(term, 1, i, kd, strides[0]) for i, term in enumerate(terms))  # type: ignore[return-value]


def conv_gathered(
    x: Float[Array, "B D H W C"], weight: Float[Array, "kd kh kw C O"], strides: Triple = (1, 1, 1)
) -> Float[Array, "B d h w O"]:
    """The same convolution as one matmul: the taps of an axis become channels, one axis after another."""
    for axis in (3, 2, 1):  # so that the taps end up in the weight's own order
        kernel, stride = weight.shape[axis - 1], strides[axis - 1]
        x = jnp.concatenate([tap(x, axis, i, kernel, stride) for i in range(kernel)], axis=-1)
    return x @ weight.reshape(-1, weight.shape[-1])


def tap(
    x: Float[Array, "B D H W C"], axis: int, i: int, kernel: int, stride: int
) -> Float[Array, "B d h w C"]:
    """What tap ``i`` of a kernel sees along an axis, zero beyond the ends."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = ((kernel - 1) // 2,) * 2
    last = stride * ((x.shape[axis] - 1) // stride) + 1
    return lax.slice_in_dim(jnp.pad(x, padding), i, i + last, stride, axis=axis)


def conv_slices(
    x: Float[Array, "B D H W C"], weight: Float[Array, "kh kw C O"], strides: tuple[int, ...]
) -> Float[Array, "B D h w O"]:
    """Convolve every depth slice in 2D."""
    out = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]),
        weight,
        strides,
        [((k - 1) // 2,) * 2 for k in weight.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out.reshape(*x.shape[:2], *out.shape[1:])


def conv3d(
    x: Float[Array, "B D H W C"], weight: Float[Array, "kd kh kw C O"], strides: Triple = (1, 1, 1)
) -> Float[Array, "B d h w O"]:
    """3D convolution with odd kernel and zero padding ``(k-1)//2``, in the form fastest on this backend.

    The backend is JAX's default one at trace time; every form gives the same values within float rounding.
    """
    if _by_onednn(x, weight):
        return onednn_conv.convolve(x, weight, strides)
    if weight.shape[:3] == strides == (1, 1, 1):
        return x @ weight[0, 0, 0]
    channels, features = weight.shape[3:]
    if jax.default_backend() != "cpu":
        wide = channels >= _WIDE_ON_GPU and strides[0] == 1
        return (conv_spread if wide else conv_folded)(x, weight, strides)
    if any(n < k for n, k in zip(x.shape[2:4], weight.shape[1:3], strict=True)) or (
        math.prod(x.shape[:4]) <= _FEW_VOXELS and channels >= _MANY_CHANNELS
    ):
        return conv_gathered(x, weight, strides)
    form = conv_spread if 2 * features <= channels and strides[0] == 1 else conv_folded
    return form(x, weight, strides)


def _by_onednn(x: Array, weight: Array) -> bool:
    """Whether oneDNN convolves: float32 on the one device of a CPU, as XLA would not divide its calls."""
    if _portable.get() or not x.dtype == weight.dtype == jnp.float32:
        return False
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and onednn_conv.available()


_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Trace convolutions in the block as XLA's own operations, which other programs can run, too."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


class Conv(Affine):
    """3D convolution with an odd kernel and padding ``(k-1)//2``; weight ``(kd, kh, kw, in, out)``."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Triple,
        strides: Triple = (1, 1, 1),
        *,
        init: Initialiser = HE,
        **options: Any,
    ):
        """``options`` are bias, dtype and rngs."""
        fan_in = math.prod(kernel) * c_in
        super().__init__((*kernel, c_in, c_out), fan_in, (4, 3, 0, 1, 2), init=init, **options)
        self.strides = strides

    def __call__(self, x: Float[Array, "B D H W C"]) -> Float[Array, "B d h w O"]:
        """Convolve; the result has ``dtype``."""
        return self.shifted(conv3d(x.astype(self.dtype), self.weight[...].astype(self.dtype), self.strides))


def patches(x: Float[Array, "B D H W C"], edges: Triple) -> Float[Array, "B d h w P"]:
    """Blocks of voxels laid side by side as channels, in the order depth, height, width, channel."""
    b, d, h, w, c = x.shape
    i, j, k = edges
    blocks = x.reshape(b, d // i, i, h // j, j, w // k, k, c)
    return blocks.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, d // i, h // j, w // k, -1)


class PatchConv(Conv):
    """3D convolution, kernel = stride: every block of voxels becomes one; weight ``(*k, in, out)``.

    The grid's edges must be multiples of the kernel's.
    """

    def __init__(self, in_features: int, out_features: int, kernel: Triple, **options: Any):
        """``options`` are those of `Conv`."""
        super().__init__(in_features, out_features, kernel, kernel, **options)

    def __call__(self, x: Float[Array, "B D H W C"]) -> Float[Array, "B d h w O"]:
        """Downsample by the kernel; the result has ``dtype``."""
        blocks = patches(x.astype(self.dtype), self.strides)
        weight = self.weight[...].astype(self.dtype).reshape(blocks.shape[-1], -1)
        return self.shifted(product(blocks, weight))


class ConvTranspose(Affine):
    """Transposed 3D convolution, kernel = stride: every voxel becomes a block; weight ``(in, *k, out)``."""

    def __init__(self, c_in: int, c_out: int, strides: Triple, *, init: Initialiser = HE, **options: Any):
        """``options`` are those of `Conv`."""
        # PyTorch counts fan_in of a transposed convolution over its *output* features.
        fan_in = math.prod(strides) * c_out
        super().__init__((c_in, *strides, c_out), fan_in, (0, 4, 1, 2, 3), init=init, **options)
        self.strides = strides

    def __call__(self, x: Float[Array, "B d h w C"]) -> Float[Array, "B D H W O"]:
        """Upsample by the strides; the result has ``dtype``."""
        b, d, h, w, c = x.shape
        i, j, k = self.strides
        blocks = product(x.astype(self.dtype), self.weight[...].astype(self.dtype).reshape(c, -1))
        y = blocks.reshape(b, d, h, w, i, j, k, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return self.shifted(y.reshape(b, d * i, h * j, w * k, -1))


class AvgPool(nnx.Module):
    """Mean over blocks of ``window`` voxels; the edges must be multiples of it."""

    def __init__(self, window: Triple):
        self.window = window

    def __call__(self, x: Float[Array, "B D H W C"]) -> Float[Array, "B d h w C"]:
        """Pool."""
        b, d, h, w, c = x.shape
        i, j, k = self.window
        return x.reshape(b, d // i, i, h // j, j, w // k, k, c).mean((2, 4, 6))
