"""The Swin transformer in 3D: attention within windows that shift from block to block.

Source: Liu et al. 2021 (arXiv 2103.14030), in the form of MONAI's `SwinTransformer`, quirks included:

- A grid that is no multiple of the window is padded with zeros at its ends, and the padding is attended to.
- Along an axis no longer than the window, the window is the axis and does not shift. Its tokens then take the first
  of the full window's relative position indices, in the order of the flattened window.
- What a shift brings together from opposite ends of the grid is kept apart by adding -100, not by a mask.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from fdif_jax.models.conv import PatchConv, Triple
from fdif_jax.models.initialisers import TORCH, small_normal
from fdif_jax.models.layers import LayerNorm, Linear, call, drop_path, dropout, split
from fdif_jax.models.unetr_blocks import UnetrBasicBlock
from fdif_jax.weights.state_dicts import TorchBuffer

STAGES = 4
APART = -100.0
# Attention logits that an accelerator holds at a time, of all windows and heads.
LOGITS = 2**26

# The octants of 2x2x2 voxels in the order in which a merging concatenates them.
_OCTANTS = tuple(itertools.product(range(2), repeat=3))
MERGINGS: dict[str, tuple[Triple, ...]] = {
    "merging": tuple(sorted(_OCTANTS, key=lambda ijk: (sum(ijk), [-i for i in ijk]))),
    "mergingv2": _OCTANTS,
}


@dataclasses.dataclass(frozen=True)
class SwinSize:
    """What the parts of a Swin transformer need to know; the names are MONAI's, see `SwinUNETRConfig`."""

    window_size: Triple
    mlp_ratio: float
    qkv_bias: bool
    drop_rate: float
    attn_drop_rate: float
    downsample: str
    use_v2: bool
    remat: bool


def _drop(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    return dropout(x, rate, key, axes=tuple(range(x.ndim)))


def fitted(grid: Triple, window: Triple, shift: Triple) -> tuple[Triple, Triple]:
    """Window and shift for a grid: along an axis no longer than the window, all of the axis and no shift."""
    fits = [(n, 0) if n <= w else (w, s) for n, w, s in zip(grid, window, shift, strict=True)]
    return tuple(w for w, _ in fits), tuple(s for _, s in fits)


def partition(x: Float[Array, "B D H W C"], window: Triple) -> Float[Array, "B N T C"]:
    """Windows of a grid whose edges are multiples of the window's: N windows of T tokens."""
    b, d, h, w, c = x.shape
    i, j, k = window
    blocks = x.reshape(b, d // i, i, h // j, j, w // k, k, c)
    return blocks.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, -1, i * j * k, c)


def unpartition(windows: Float[Array, "B N T C"], window: Triple, grid: Triple) -> Float[Array, "B D H W C"]:
    """What `partition` took apart."""
    b, c = windows.shape[0], windows.shape[-1]
    numbers = [n // w for n, w in zip(grid, window, strict=True)]
    blocks = windows.reshape(b, *numbers, *window, c)
    return blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, *grid, c)


def regions(grid: Triple, window: Triple, shift: Triple) -> UInt8[np.ndarray, "N T"]:
    """For every token of every window of the shifted grid, which part of the unshifted grid it comes from.

    Along an axis that shifts: 0 before the last window, 1 in the last window, 2 where it comes from the other end.
    """
    numbers = []
    for n, w, s in zip(grid, window, shift, strict=True):
        place = np.arange(n)
        numbers.append((place >= n - w).astype(np.uint8) + (place >= n - s) if s else np.zeros(n, np.uint8))
    d, h, w = np.ix_(*numbers)
    return np.asarray(partition((9 * d + 3 * h + w)[None, ..., None], window))[0, ..., 0]


def relative_position_index(window: Triple) -> Int[np.ndarray, "T T"]:
    """For a query and a key of a window, the row of the bias table for how one lies from the other."""
    tokens = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1).reshape(-1, 3)
    offsets = tokens[:, None] - tokens[None] + (np.array(window) - 1)
    return np.ravel_multi_index(np.moveaxis(offsets, -1, 0), [2 * w - 1 for w in window]).astype(np.int32)


class WindowAttention(nnx.Module):
    """Multi-head self-attention within windows, with a learnt bias for how two tokens lie to each other."""

    def __init__(self, features: int, heads: int, size: SwinSize, *, dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"init": TORCH, "dtype": dtype, "rngs": rngs}
        rows = math.prod(2 * w - 1 for w in size.window_size)
        self.relative_position_bias_table = nnx.Param(small_normal(rngs.params(), (rows, heads), 1))
        self.relative_position_index = TorchBuffer(jnp.asarray(relative_position_index(size.window_size)))
        self.qkv = Linear(features, 3 * features, bias=size.qkv_bias, **options)
        self.proj = Linear(features, features, **options)
        self.heads, self.attn_drop_rate, self.drop_rate = heads, size.attn_drop_rate, size.drop_rate

    def __call__(self, x, parts: np.ndarray | None, key: Array | None):
        """``(B, N, T, C)`` → the same; ``parts`` ``(N, T)`` are the regions between which nothing attends.

        Windows are attended to one after another, and again for their gradients, so that the logits of all never
        lie in memory at once. On a CPU one window's stay in its cache; an accelerator takes many.
        """
        b, n, t, c = x.shape
        keys = split(key, 2)
        bias = self.relative_position_bias_table[...][self.relative_position_index[:t, :t]].transpose(2, 0, 1)
        windows = {"qkv": self.qkv(x).reshape(b * n, t, 3 * c)}
        if parts is not None:
            # behind a barrier, or XLA works out all windows' masks when it compiles and keeps them in the program
            windows["parts"] = jax.lax.optimization_barrier(jnp.tile(parts, (b, 1)))
        if keys[0] is not None and self.attn_drop_rate:
            windows["key"] = jax.random.split(keys[0], b * n)
        attend = jax.checkpoint(lambda window: attention(**window, bias=bias, rate=self.attn_drop_rate))
        together = None if jax.default_backend() == "cpu" else max(LOGITS // bias.size, 1)
        y = jax.lax.map(attend, windows, batch_size=together).reshape(x.shape)
        return _drop(self.proj(y), self.drop_rate, keys[1])


def attention(
    qkv: Float[Array, "T 3C"],
    bias: Float[Array, "H T T"],
    rate: float,
    parts: UInt8[Array, " T"] | None = None,
    key: Array | None = None,
) -> Float[Array, "T C"]:
    """Attention within one window, softmax in float32, its weights dropped at ``rate`` where there is a key."""
    heads, tokens, _ = bias.shape
    query, keys, values = qkv.reshape(tokens, 3, heads, -1).transpose(1, 2, 0, 3)
    query = query * query.shape[-1] ** -0.5
    logits = jnp.matmul(query, keys.swapaxes(1, 2), preferred_element_type=jnp.float32) + bias
    if parts is not None:
        logits += jnp.where(parts[:, None] == parts, 0.0, APART)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    # The sum over the tokens comes before the division, which then is over few channels instead of all tokens.
    weights = _drop(weights, rate, key).astype(qkv.dtype)
    y = jnp.matmul(weights, values, preferred_element_type=jnp.float32) / total
    return y.astype(qkv.dtype).transpose(1, 0, 2).reshape(tokens, -1)


class Mlp(nnx.Module):
    """Two linear layers with a GELU between, the features widened by ``mlp_ratio``."""

    def __init__(self, features: int, size: SwinSize, *, dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"init": TORCH, "dtype": dtype, "rngs": rngs}
        hidden = int(features * size.mlp_ratio)
        self.linear1 = Linear(features, hidden, **options)
        self.linear2 = Linear(hidden, features, **options)
        self.rate = size.drop_rate

    def __call__(self, x, key: Array | None):
        """``(B, D, H, W, C)`` → the same."""
        keys = split(key, 2)
        x = jax.nn.gelu(self.linear1(x), approximate=False)
        x = _drop(x, self.rate, keys[0])
        return _drop(self.linear2(x), self.rate, keys[1])


class SwinBlock(nnx.Module):
    """Window attention and MLP, each behind a layer norm and added to its input."""

    def __init__(
        self,
        features: int,
        heads: int,
        shift: Triple,
        path_rate: float,
        size: SwinSize,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(features, dtype=dtype)
        self.attn = WindowAttention(features, heads, size, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(features, dtype=dtype)
        self.mlp = Mlp(features, size, dtype=dtype, rngs=rngs)
        self.window, self.shift, self.path_rate = size.window_size, shift, path_rate

    def __call__(self, x, key: Array | None):
        """``(B, D, H, W, C)`` → the same."""
        keys = split(key, 4)
        x = x + drop_path(self.attend(self.norm1(x), keys[0]), self.path_rate, keys[1])
        return x + drop_path(self.mlp(self.norm2(x), keys[2]), self.path_rate, keys[3])

    def attend(self, x, key: Array | None):
        """Attention within the windows of the padded and shifted grid, put back in place."""
        grid = x.shape[1:4]
        window, shift = fitted(grid, self.window, self.shift)
        ends = [-n % w for n, w in zip(grid, window, strict=True)]
        padded = tuple(n + end for n, end in zip(grid, ends, strict=True))
        x = jnp.pad(x, ((0, 0), *((0, end) for end in ends), (0, 0)))
        parts = None
        if any(shift):
            x = jnp.roll(x, [-s for s in shift], (1, 2, 3))
            parts = regions(padded, window, shift)
        x = unpartition(self.attn(partition(x, window), parts, key), window, padded)
        if any(shift):
            x = jnp.roll(x, shift, (1, 2, 3))
        return x[:, : grid[0], : grid[1], : grid[2]]


class PatchMerging(nnx.Module):
    """Half the grid, twice the features: of every 2x2x2 voxels the channels side by side, norm, linear."""

    def __init__(self, features: int, octants: tuple[Triple, ...], *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = LayerNorm(8 * features, dtype=dtype)
        self.reduction = Linear(8 * features, 2 * features, bias=False, init=TORCH, dtype=dtype, rngs=rngs)
        self.octants = octants

    def __call__(self, x):
        """``(B, D, H, W, C)``, even edges, → ``(B, D/2, H/2, W/2, 2C)``."""
        x = jnp.concatenate([x[:, i::2, j::2, k::2] for i, j, k in self.octants], axis=-1)
        return self.reduction(self.norm(x))


class Stage(nnx.Module):
    """Blocks at one resolution, every second shifted by half a window, then a merging; in v2 a convolution first."""

    def __init__(
        self,
        features: int,
        heads: int,
        path_rates: tuple[float, ...],
        size: SwinSize,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        half = tuple(w // 2 for w in size.window_size)
        shifts = itertools.cycle([(0, 0, 0), half])
        self.conv = UnetrBasicBlock(features, features, **options) if size.use_v2 else None
        self.blocks = nnx.List(
            [
                SwinBlock(features, heads, shift, rate, size, **options)
                for rate, shift in zip(path_rates, shifts, strict=False)
            ]
        )
        self.downsample = PatchMerging(features, MERGINGS[size.downsample], **options)
        self.remat = size.remat

    def __call__(self, x, key: Array | None):
        """``(B, D, H, W, C)`` → ``(B, D/2, H/2, W/2, 2C)``."""
        if self.conv is not None:
            x = call(self.conv, x, remat=self.remat)
        for block, own_key in zip(self.blocks, split(key, len(self.blocks)), strict=True):
            x = call(block, x, own_key, remat=self.remat)
        return self.downsample(x)


class PatchEmbed(nnx.Module):
    """Every 2x2x2 voxels of the image become a token; with ``norm`` behind a layer norm."""

    def __init__(self, in_channels: int, features: int, norm: bool, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.proj = PatchConv(in_channels, features, (2, 2, 2), bias=True, init=TORCH, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(features, dtype=dtype) if norm else None

    def __call__(self, x):
        """``(B, D, H, W, in_channels)`` → ``(B, D/2, H/2, W/2, features)``."""
        x = self.proj(x)
        return x if self.norm is None else self.norm(x)


class SwinTransformer(nnx.Module):
    """Patch embedding and four stages; gives the tokens before, between and after them."""

    def __init__(
        self,
        in_channels: int,
        features: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        path_rate: float,
        size: SwinSize,
        *,
        normalize: bool,
        patch_norm: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.patch_embed = PatchEmbed(in_channels, features, patch_norm, **options)
        # Blocks are dropped the more often the deeper they lie.
        rates = iter(np.linspace(0, path_rate, sum(depths)).tolist())
        self.stages = nnx.List(
            [
                Stage(features * 2**i, number, tuple(itertools.islice(rates, depth)), size, **options)
                for i, (depth, number) in enumerate(zip(depths, heads, strict=True))
            ]
        )
        # Not learnt, the same for every number of channels.
        self.norm = LayerNorm(features, affine=False, dtype=dtype) if normalize else None
        self.drop_rate = size.drop_rate

    def __call__(self, x, key: Array | None) -> list:
        """``(B, D, H, W, in_channels)`` → five arrays, of grids D/2 to D/32 and features C to 16 C."""
        keys = split(key, 1 + len(self.stages))
        x = _drop(self.patch_embed(x), self.drop_rate, keys[0])
        tokens = [x]
        for stage, own_key in zip(self.stages, keys[1:], strict=True):
            x = stage(x, own_key)
            tokens.append(x)
        return tokens if self.norm is None else [self.norm(x) for x in tokens]
