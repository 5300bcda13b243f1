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

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models.conv import PatchConv, Triple, repeated
from fdif_jax.models.initialisers import TORCH, small_normal
from fdif_jax.models.layers import LayerNorm, Linear, Mlp, call, drop_path, dropout, split
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
class SwinUNETRConfig:
    """Everything about a SwinUNETR but its weights; the names are MONAI's.

    Attributes:
        in_channels: channels of the image.
        out_channels: channels of the logits; the foreground classes and the background.
        feature_size: features of the finest resolution, a multiple of 12; they double with every halving of the grid.
        depths: transformer blocks in every stage, finest first.
        num_heads: attention heads in every stage; divisors of its features.
        window_size: tokens along every axis of an attention window, or one number for all.
        qkv_bias: biases for queries, keys and values.
        mlp_ratio: features within an MLP over those outside.
        drop_rate: probability of dropout of activations in the transformer.
        attn_drop_rate: probability of dropout of attention weights.
        dropout_path_rate: probability of stochastic depth in the last block; it grows from 0 in the first.
        normalize: whether what the encoder hands the decoder is normalised over its channels.
        patch_norm: a layer norm after the patch embedding.
        downsample: order of the voxels merged between stages, ``merging`` (MONAI's default) or ``mergingv2``.
        use_v2: a residual convolution block before every stage.
        remat: recompute every block in the backward pass instead of keeping what it computed.
        dtype: to compute in, float32 or bfloat16; parameters, norm statistics, softmax and logits are float32.

    Raises:
        FdifError: a value is out of range or the values do not agree.
    """

    in_channels: int
    out_channels: int
    feature_size: int
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: Triple = (7, 7, 7)
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    dropout_path_rate: float = 0.0
    normalize: bool = True
    patch_norm: bool = False
    downsample: str = "merging"
    use_v2: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "window_size", repeated(self.window_size))
        for name, wanted, what in (
            ("depths", STAGES, "one a stage"),
            ("num_heads", STAGES, "one a stage"),
            ("window_size", 3, "one an axis"),
        ):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != wanted:
                raise FdifError(f"swin_unetr: {name} needs {wanted} entries, {what}, got {value}")
        sizes = (self.in_channels, self.out_channels, self.feature_size)
        if not all(
            isinstance(n, int) and n >= 1 for n in (*sizes, *self.depths, *self.num_heads, *self.window_size)
        ):
            raise FdifError(f"swin_unetr: channels and sizes must be whole numbers from 1, got {self}")
        if self.feature_size % 12:
            raise FdifError(f"swin_unetr: feature_size must be a multiple of 12, got {self.feature_size}")
        for stage, heads in enumerate(self.num_heads):
            if (features := self.feature_size * 2**stage) % heads:
                raise FdifError(
                    f"swin_unetr: num_heads must divide the stage's features, {features} in stage {stage + 1}, "
                    f"got {heads}"
                )
        for name in ("drop_rate", "attn_drop_rate", "dropout_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise FdifError(f"swin_unetr: {name} must be from 0 to below 1, got {getattr(self, name)}")
        if int(self.feature_size * self.mlp_ratio) < 1:
            raise FdifError(f"swin_unetr: mlp_ratio must leave an MLP one feature, got {self.mlp_ratio}")
        if self.downsample not in MERGINGS:
            raise unknown("downsample of swin_unetr", self.downsample, MERGINGS)
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype of swin_unetr", self.dtype, ("float32", "bfloat16"))


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

    def __init__(self, features: int, heads: int, size: SwinUNETRConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
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
        return dropout(self.proj(y), self.drop_rate, keys[1])


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
    weights = dropout(weights, rate, key).astype(qkv.dtype)
    y = jnp.matmul(weights, values, preferred_element_type=jnp.float32) / total
    return y.astype(qkv.dtype).transpose(1, 0, 2).reshape(tokens, -1)


class SwinBlock(nnx.Module):
    """Window attention and MLP, each behind a layer norm and added to its input."""

    def __init__(
        self,
        features: int,
        heads: int,
        shift: Triple,
        path_rate: float,
        size: SwinUNETRConfig,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(features, dtype=dtype)
        self.attn = WindowAttention(features, heads, size, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(features, dtype=dtype)
        self.mlp = Mlp(features, int(features * size.mlp_ratio), size.drop_rate, dtype=dtype, rngs=rngs)
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
        self, features: int, heads: int, path_rates: tuple[float, ...], size: SwinUNETRConfig, **options: Any
    ):
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

    def __init__(self, config: SwinUNETRConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        features = config.feature_size
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.patch_embed = PatchEmbed(config.in_channels, features, config.patch_norm, **options)
        # Blocks are dropped the more often the deeper they lie.
        rates = iter(np.linspace(0, config.dropout_path_rate, sum(config.depths)).tolist())
        self.stages = nnx.List(
            [
                Stage(features * 2**i, number, tuple(itertools.islice(rates, depth)), config, **options)
                for i, (depth, number) in enumerate(zip(config.depths, config.num_heads, strict=True))
            ]
        )
        # Not learnt, the same for every number of channels.
        self.norm = LayerNorm(features, affine=False, dtype=dtype) if config.normalize else None
        self.drop_rate = config.drop_rate

    def __call__(self, x, key: Array | None) -> list:
        """``(B, D, H, W, in_channels)`` → five arrays, of grids D/2 to D/32 and features C to 16 C."""
        keys = split(key, 1 + len(self.stages))
        x = dropout(self.patch_embed(x), self.drop_rate, keys[0])
        tokens = [x]
        for stage, own_key in zip(self.stages, keys[1:], strict=True):
            x = stage(x, own_key)
            tokens.append(x)
        return tokens if self.norm is None else [self.norm(x) for x in tokens]
